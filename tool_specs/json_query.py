# The code of the tool json_query; it runs in the sandbox, with the call's arguments as `args`.
path = args["path"]
if path.startswith("/"):
    steps = [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]
else:
    steps = path.split(".") if path else []
value = args["document"]
for step in steps:
    if isinstance(value, dict) and step in value:
        value = value[step]
    elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
        value = value[int(step)]
    else:
        raise LookupError(f"nothing stands at {step!r} of {path!r}")
result = {"value": value}
