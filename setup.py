"""Only what pyproject.toml cannot say plainly: configs/ ships inside the package."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["randwire_det", "randwire_det.*"]),
        "randwire_det.configs",
        "randwire_det.configs.lazy",
        "randwire_det.configs.pretrain",
        "randwire_det.configs.studies",
    ],
    package_dir={
        "randwire_det.configs": "configs",
        "randwire_det.configs.lazy": "configs/lazy",
        "randwire_det.configs.pretrain": "configs/pretrain",
        "randwire_det.configs.studies": "configs/studies",
    },
    package_data={
        "randwire_det": ["py.typed"],
        "randwire_det.configs": ["*.yaml"],
        "randwire_det.configs.lazy": ["*.py"],
        "randwire_det.configs.pretrain": ["*.yaml"],
        "randwire_det.configs.studies": ["*.yaml"],
    },
)
