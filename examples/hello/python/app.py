"""Answers an HTTP request: edit the greeting while `hearth dev` runs."""


def handler(event, context):
    name = (event.get("queryStringParameters") or {}).get("name", "world")
    return {"message": f"Hello, {name}, from Python", "request": context.aws_request_id}
