def handler(event, context):
    return {"request": context.aws_request_id}
