"""`python -m deploy.servers.install`: bring the servers that a package registry offers; what is there is left alone.

Kafka's jars come from Maven Central, MinIO is compiled from its Go module, the rest are Debian's packages.  What
cannot be had is reported with its reason and the rest goes on; the exit code is 1 then.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deploy.servers.process import run
from deploy.servers.versions import versions
from telemetry.errors import TwinError

_MAVEN_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
_POLICY = Path("/usr/sbin/policy-rc.d")
#: What Debian calls 'not allowed by policy'.
_NO_SERVICES = "#!/bin/sh\nexit 101\n"
#: Where Debian puts servers, and an ordinary user's PATH does not look.
_MORE_PATHS = ("/usr/sbin", "/usr/lib/postgresql/{postgresql}/bin")


class Component(Protocol):
    """Something to install."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def missing(self) -> str | None:
        """Why it cannot be used, in words for a skipped test; None where it can."""
        ...


@dataclass(frozen=True)
class Package:
    """A package of Debian's and the programs that we use from it."""

    name: str
    programs: tuple[str, ...]

    def missing(self) -> str | None:
        """The first program that is absent."""
        for program in self.programs:
            if _which(program) is None:
                return f"{program} is absent (Debian package {self.name})"
        return None

    def program(self, name: str) -> Path:
        """Where `name` is.

        Raises:
            TwinError: it is not installed.
        """
        found = _which(name)
        if found is None:
            raise TwinError(f"{name} is absent; install Debian's package {self.name}.", field=self.name)
        return Path(found)


@dataclass(frozen=True)
class KafkaJars:
    """Kafka with all that it needs, as jars in one folder."""

    name: str = "kafka"

    @property
    def folder(self) -> Path:
        """Where the jars are."""
        return cache_folder() / f"kafka_{versions().scala}-{versions().kafka}"

    def missing(self) -> str | None:
        """The jars or a Java to run them."""
        if _which("java") is None:
            return "java is absent (17 or newer is needed)"
        return None if self.folder.is_dir() else f"Kafka is not installed ({self.folder} is absent)"

    def install(self) -> None:
        """Let Maven resolve the server's dependencies and copy them.

        Raises:
            TwinError: Maven is absent or failed.
        """
        if _which("mvn") is None:
            raise TwinError("mvn is absent (Debian package maven)", field=self.name)
        with _arriving(self.folder) as folder, tempfile.TemporaryDirectory() as project:
            pom = Path(project) / "pom.xml"
            pom.write_text(_pom())
            run(["mvn", "--batch-mode", "--quiet", "--file", str(pom), f"{_MAVEN_PLUGIN}:copy-dependencies",
                 "-DincludeScope=runtime", f"-DoutputDirectory={folder}"])  # fmt: skip


@dataclass(frozen=True)
class MinioPrograms:
    """`minio` and its client `mc`, compiled from their Go modules, in one folder."""

    name: str = "minio"

    @property
    def folder(self) -> Path:
        """Where the two programs are."""
        return cache_folder() / f"minio-{versions().minio}-{versions().minio_client}"

    def missing(self) -> str | None:
        """The programs."""
        return None if self.folder.is_dir() else f"MinIO is not installed ({self.folder} is absent)"

    def install(self) -> None:
        """Compile both; minutes on a new machine.

        Raises:
            TwinError: Go is absent, or a module could not be compiled.
        """
        if _which("go") is None:
            raise TwinError("go is absent", field=self.name)
        with _arriving(self.folder) as folder:
            environment = {"GOBIN": str(folder), "CGO_ENABLED": "0"}
            for module in (
                f"github.com/minio/minio@{versions().minio}",
                f"github.com/minio/mc@{versions().minio_client}",
            ):
                run(["go", "install", "-trimpath", "-ldflags=-s -w", module], environment=environment)


KAFKA = KafkaJars()
MINIO = MinioPrograms()
#: Debian's packages by name.
DEBIAN: dict[str, Package] = {
    package.name: package
    for package in (
        Package("mosquitto", ("mosquitto", "mosquitto_passwd")),
        Package("postgresql-15", ("initdb", "postgres")),
        Package("prometheus", ("prometheus", "promtool")),
        Package("prometheus-alertmanager", ("prometheus-alertmanager",)),
        Package("openssl", ("openssl",)),
        Package("wrk", ("wrk",)),
        Package("strace", ("strace",)),
        Package("chromium", ("chromium",)),
        Package("docker-compose", ("docker-compose",)),
        Package("default-jre-headless", ("java",)),
        Package("maven", ("mvn",)),
    )
}


def cache_folder() -> Path:
    """Where what was installed is kept for the next time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "battery-twin"


def require(*components: Component) -> None:
    """Return if all can be used.

    Raises:
        TwinError: one cannot; the sentence says why and what to do.
    """
    for component in components:
        if reason := component.missing():
            raise TwinError(f"{reason}; run `make servers-install`.", field=component.name)


def main() -> int:
    """Install everything; 1 if something is missing in the end."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Kafka comes after the packages, which bring Maven where there is none; Go compiles meanwhile.
        with ThreadPoolExecutor(2) as lanes:
            reports = [lanes.submit(_packages_and_kafka), lanes.submit(lambda: [_report(MINIO, MINIO.install)])]
            lines = [line for report in reports for line in report.result()]
    print("\n".join(lines))
    components: tuple[Component, ...] = (*DEBIAN.values(), KAFKA, MINIO)
    return 1 if any(component.missing() for component in components) else 0


def _packages_and_kafka() -> list[str]:
    began = time.monotonic()
    absent = [package.name for package in DEBIAN.values() if package.missing() is not None]
    why = _apt_install(absent)
    lines = []
    for package in DEBIAN.values():
        reason = package.missing()
        if reason is not None:
            lines.append(f"{package.name}: not installed: {why.get(package.name, reason)}")
        elif package.name in absent:
            lines.append(f"{package.name}: installed with the others in {time.monotonic() - began:.0f} s")
        else:
            lines.append(f"{package.name}: ready")
    return [*lines, _report(KAFKA, KAFKA.install)]


def _report(component: Component, install: Callable[[], None]) -> str:
    if component.missing() is None:
        return f"{component.name}: ready"
    began = time.monotonic()
    try:
        install()
    except TwinError as error:
        return f"{component.name}: not installed: {error}"
    if reason := component.missing():
        return f"{component.name}: not installed: {reason}"
    return f"{component.name}: installed in {time.monotonic() - began:.0f} s"


def _apt_install(names: Sequence[str]) -> dict[str, str]:
    """Install Debian's packages `names`; gives the reasons of those that could not be."""
    if not names:
        return {}
    if _which("apt-get") is None:
        return dict.fromkeys(names, "apt-get is absent")
    if os.geteuid() != 0:
        return dict.fromkeys(names, f"only root may: sudo apt-get install {' '.join(names)}")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]
    reasons: dict[str, str] = {}
    with _no_services_started():
        try:
            run(["apt-get", "update", "--quiet"], environment=environment)
            run([*install, *names], environment=environment)
        except TwinError:
            # One that does not exist stops all, so each gets a try of its own.
            for name in names:
                try:
                    run([*install, name], environment=environment)
                except TwinError as error:
                    reasons[name] = str(error)
    return reasons


@contextmanager
def _no_services_started() -> Iterator[None]:
    """Keep Debian from starting the servers that it installs: ours have ports and folders of their own."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text(_NO_SERVICES)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


@contextmanager
def _arriving(folder: Path) -> Iterator[Path]:
    """A folder to fill that becomes `folder` in one step, so that what is there is complete."""
    filling = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield filling
        filling.chmod(0o755)
        filling.rename(folder)
    finally:
        shutil.rmtree(filling, ignore_errors=True)


def _which(program: str) -> str | None:
    more = (path.format(postgresql=versions().postgresql) for path in _MORE_PATHS)
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *more]))


def _pom() -> str:
    # Kafka logs to an interface; in its own distribution it is log4j that writes the lines.
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
        for group, artifact, version in (
            ("org.apache.kafka", f"kafka_{versions().scala}", versions().kafka),
            ("org.apache.logging.log4j", "log4j-slf4j-impl", versions().log4j),
        )
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>battery-twin</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )


if __name__ == "__main__":
    sys.exit(main())
