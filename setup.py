"""Package metadata comes from settings.ini; build system and tools from pyproject.toml."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ini = ConfigParser(delimiters=["="])
ini.read(Path(__file__).with_name("settings.ini"), encoding="utf-8")
cfg = ini["DEFAULT"]
lines = lambda key: cfg[key].split("\n")

setup(
    description=cfg["description"], author=cfg["author"],
    author_email=cfg["author_email"], keywords=cfg["keywords"].split(),
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    package_data={cfg["lib_path"]: ["toy/assets/**/*", "py.typed"]},
    install_requires=lines("requirements"),
    extras_require={"dev": lines("dev_requirements"), "footage": lines("footage_requirements")},
    entry_points={"console_scripts": lines("console_scripts"),
                  "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
)
