"""Pictures on their way in and out: photographs by strangers, and small copies of database images.

Only formats that every browser shows are read, so none of Pillow's readers that start other programs or decode rare
containers meets a stranger's file. Outgoing pictures are encoded anew: positions and names in EXIF stay here.
"""

from io import BytesIO

from PIL import Image, ImageOps

from selavpr_peft.modeling.preprocessing import as_rgb
from selavpr_peft.serving.request_error import RequestError

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP")
MAX_UPLOAD_BYTES = 25_000_000
MAX_PIXELS = 50_000_000
JPEG_QUALITY = 85


def read_photograph(content: bytes) -> Image.Image:
    """Decode a photograph that somebody sent, upright and in RGB.

    Args:
        content: The file.

    Raises:
        RequestError: If it is empty, no picture of a known format, damaged, or larger than MAX_PIXELS.
    """
    if not content:
        raise RequestError("No photograph arrived; send the content of an image file.", 400)
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            num_pixels = image.width * image.height
            if num_pixels <= MAX_PIXELS:
                return as_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        num_pixels = Image.MAX_IMAGE_PIXELS or MAX_PIXELS
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise RequestError(
            "This file is no picture that can be read; send a whole JPEG, PNG, WebP, AVIF, GIF or BMP file.", 415
        ) from error
    raise RequestError(
        f"The photograph has more than {num_pixels / 1e6:.0f} million pixels, and {MAX_PIXELS / 1e6:.0f} are the most"
        " that is read; send a smaller copy.",
        413,
    )


def check_upload_size(num_bytes: int) -> None:
    """Raise if a file is larger than MAX_UPLOAD_BYTES.

    Args:
        num_bytes: Its size, or how much of it has arrived.

    Raises:
        RequestError: Naming the limit.
    """
    if num_bytes > MAX_UPLOAD_BYTES:
        raise RequestError(f"The photograph is larger than {MAX_UPLOAD_BYTES / 1e6:.0f} MB; send a smaller copy.", 413)


def jpeg_copy(image: Image.Image, max_side_px: int) -> bytes:
    """Encode a copy of a picture that is no larger than needed, and free of metadata.

    Args:
        image: RGB picture; it is made smaller in place.
        max_side_px: The longer side at most; smaller pictures keep their size.
    """
    image.thumbnail((max_side_px, max_side_px))
    copy = BytesIO()
    image.save(copy, "JPEG", quality=JPEG_QUALITY)
    return copy.getvalue()
