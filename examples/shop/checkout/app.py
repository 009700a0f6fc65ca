"""Takes an order and answers with its number, which is the request's id: the same order twice has two."""

import json


def handler(event, context):
    order = json.loads(event.get("body") or "{}")
    if not order.get("names"):
        return {"statusCode": 400, "body": json.dumps({"error": "an order needs names"})}
    print("order of", ", ".join(order["names"]))
    return {"statusCode": 201, "body": json.dumps({"order": context.aws_request_id})}
