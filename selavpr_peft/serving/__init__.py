"""Show a place database in the browser: a photograph goes in, ranked places, a map and matches come out.

Needs the extra `serve` (FastAPI and uvicorn). `selavpr serve` is the command around it.
"""

from selavpr_peft.serving.app import create_app

__all__ = ["create_app"]
