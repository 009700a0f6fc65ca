"""Takes an image as the body of a request and answers with it, 64 pixels wide at most."""

import base64
import io

from PIL import Image


def handler(event, context):
    body = base64.b64decode(event["body"]) if event.get("isBase64Encoded") else event["body"].encode()
    image = Image.open(io.BytesIO(body))
    image.thumbnail((64, 64))
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG")
    return {
        "statusCode": 200,
        "headers": {"content-type": "image/jpeg"},
        "body": base64.b64encode(out.getvalue()).decode(),
        "isBase64Encoded": True,
    }
