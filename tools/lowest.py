"""The lowest version of each direct dependency that settings.ini allows, as constraints for pip: `tools/lowest.py`."""
import re
from configparser import ConfigParser
from pathlib import Path


def lowest(text:str)->list: # Of lines `name==version`
    "Where `name>=version` and `name[extra]>=version` of settings.ini begin; a dependency without a bound is an error"
    ini = ConfigParser(delimiters=["="])
    ini.read_string(text)
    found = {}
    for key, value in ini["DEFAULT"].items():
        if not key.endswith("requirements"): continue
        for line in value.split("\n"):
            bound = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)", line.strip())
            if not bound: raise ValueError(f"settings.ini, {key}: {line.strip()!r} says no lowest version")
            if found.setdefault(*bound.groups()) != bound[2]:
                raise ValueError(f"settings.ini: {bound[1]} has two bounds")
    return [f"{name}=={version}" for name, version in found.items()]


if __name__ == "__main__":
    print(*lowest((Path(__file__).parents[1]/"settings.ini").read_text(encoding="utf-8")), sep="\n")
