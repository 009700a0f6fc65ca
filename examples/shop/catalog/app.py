"""Lists what is for sale."""

ITEMS = {"lamp": 25, "chair": 80, "table": 240}


def handler(event, context):
    return {"items": [{"name": name, "price": price} for name, price in ITEMS.items()]}
