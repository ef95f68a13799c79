"""Packages of a built distribution: the library, and the config files in a folder of its own, jaxseg/recipes/configs."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["jaxseg*"]), "jaxseg.recipes.configs"], package_dir={"jaxseg.recipes.configs": "configs"})
