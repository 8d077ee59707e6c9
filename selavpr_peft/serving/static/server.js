// Requests to the server. Every failure is an Error whose message is a sentence for the user.

const UNREACHABLE = "The server cannot be reached; see whether it still runs, then try again.";

export function describeDatabase(signal) {
  return requestJson("api/database", { signal });
}

export function matchPlace(photograph, key, signal) {
  return requestJson(`api/match?${new URLSearchParams({ key })}`, { method: "POST", body: photograph, signal });
}

// XMLHttpRequest, because fetch does not tell how much has been sent.
export function locate(photograph, { topK, rerankNum }, { onSent, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `api/recognize?${new URLSearchParams({ top_k: topK, rerank_num: rerankNum })}`);
    request.upload.onprogress = (event) => onSent(event.loaded / event.total);
    request.onload = () => {
      const answer = parsed(request.responseText);
      if (request.status === 200 && answer) resolve(answer);
      else reject(new Error(answer?.detail ?? UNREACHABLE));
    };
    request.onerror = () => reject(new Error(UNREACHABLE));
    request.onabort = () => reject(new DOMException("Given up for another photograph.", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(photograph);
  });
}

async function requestJson(address, options) {
  let response, text;
  try {
    response = await fetch(address, options);
    text = await response.text();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(UNREACHABLE);
  }
  const answer = parsed(text);
  if (!response.ok || !answer) throw new Error(answer?.detail ?? UNREACHABLE);
  return answer;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
