"""Answers through Google's functions framework."""


def hello(request):
    return f"Hello {request.args.get('name', 'world')}\n"
