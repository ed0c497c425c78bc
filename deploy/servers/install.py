"""`python -m deploy.servers.install`: install the servers from package registries, except those already installed.

Kafka's jars come from Maven Central, MinIO is compiled from its Go module, the others are Debian packages.  A failed
installation is reported with its reason and does not stop the others; the exit code is then 1.
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
#: Exit code 101 of policy-rc.d: the action is not allowed.
_NO_SERVICES = "#!/bin/sh\nexit 101\n"
#: Folders of Debian's server programs that are not in the PATH of an ordinary user.
_EXTRA_PATHS = ("/usr/sbin", "/usr/lib/postgresql/{postgresql}/bin")


class Component(Protocol):
    """An installable server or tool."""

    @property
    def name(self) -> str:
        """Name used in reports."""
        ...

    def missing(self) -> str | None:
        """Reason why it cannot be used, worded for a skipped test; None if it can."""
        ...


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package and the programs used from it."""

    name: str
    programs: tuple[str, ...]

    def missing(self) -> str | None:
        """Reason that names the first program not found."""
        for program in self.programs:
            if _which(program) is None:
                return f"{program} is not installed (Debian package {self.name})"
        return None

    def program(self, name: str) -> Path:
        """Path of the program `name`.

        Raises:
            TwinError: it is not installed.
        """
        found = _which(name)
        if found is None:
            raise TwinError(f"{name} is not installed; install the Debian package {self.name}.", field=self.name)
        return Path(found)


@dataclass(frozen=True)
class KafkaJars:
    """Kafka and its dependencies, as jars in one folder."""

    name: str = "kafka"

    @property
    def folder(self) -> Path:
        """Folder of the jars."""
        return cache_folder() / f"kafka_{versions().scala}-{versions().kafka}"

    def missing(self) -> str | None:
        """Reason if Java or the jars are missing."""
        if _which("java") is None:
            return "java is not installed (17 or newer is needed)"
        return None if self.folder.is_dir() else f"Kafka is not installed ({self.folder} does not exist)"

    def install(self) -> None:
        """Resolve the server's dependencies with Maven and copy them to the folder.

        Raises:
            TwinError: Maven is not installed or failed.
        """
        if _which("mvn") is None:
            raise TwinError("mvn is not installed (Debian package maven)", field=self.name)
        with _renamed_when_complete(self.folder) as folder, tempfile.TemporaryDirectory() as project:
            pom = Path(project) / "pom.xml"
            pom.write_text(_pom())
            run(["mvn", "--batch-mode", "--quiet", "--file", str(pom), f"{_MAVEN_PLUGIN}:copy-dependencies",
                 "-DincludeScope=runtime", f"-DoutputDirectory={folder}"])  # fmt: skip


@dataclass(frozen=True)
class MinioPrograms:
    """The server `minio` and its client `mc`, compiled from their Go modules into one folder."""

    name: str = "minio"

    @property
    def folder(self) -> Path:
        """Folder of the two programs."""
        return cache_folder() / f"minio-{versions().minio}-{versions().minio_client}"

    def missing(self) -> str | None:
        """Reason if the programs are missing."""
        return None if self.folder.is_dir() else f"MinIO is not installed ({self.folder} does not exist)"

    def install(self) -> None:
        """Compile both programs, which takes minutes on a new machine.

        Raises:
            TwinError: Go is not installed, or a module could not be compiled.
        """
        if _which("go") is None:
            raise TwinError("go is not installed", field=self.name)
        with _renamed_when_complete(self.folder) as folder:
            environment = {"GOBIN": str(folder), "CGO_ENABLED": "0"}
            for module in (
                f"github.com/minio/minio@{versions().minio}",
                f"github.com/minio/mc@{versions().minio_client}",
            ):
                run(["go", "install", "-trimpath", "-ldflags=-s -w", module], environment=environment)


KAFKA = KafkaJars()
MINIO = MinioPrograms()
#: Debian packages by name.
DEBIAN: dict[str, DebianPackage] = {
    package.name: package
    for package in (
        DebianPackage("mosquitto", ("mosquitto", "mosquitto_passwd")),
        DebianPackage("postgresql-15", ("initdb", "postgres")),
        DebianPackage("prometheus", ("prometheus", "promtool")),
        DebianPackage("prometheus-alertmanager", ("prometheus-alertmanager",)),
        DebianPackage("nginx-light", ("nginx",)),
        DebianPackage("openssl", ("openssl",)),
        DebianPackage("wrk", ("wrk",)),
        DebianPackage("strace", ("strace",)),
        DebianPackage("chromium", ("chromium",)),
        DebianPackage("docker-compose", ("docker-compose",)),
        DebianPackage("default-jre-headless", ("java",)),
        DebianPackage("maven", ("mvn",)),
    )
}


def cache_folder() -> Path:
    """Folder in which downloaded and compiled servers are cached."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "battery-twin"


def require(*components: Component) -> None:
    """Check that all components are installed.

    Raises:
        TwinError: one is missing; the sentence gives the reason and the remedy.
    """
    for component in components:
        if reason := component.missing():
            raise TwinError(f"{reason}; run `make servers-install`.", field=component.name)


def main() -> int:
    """Install all components; 1 if one is missing afterwards."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Kafka needs Maven, which is one of the Debian packages; MinIO is compiled in parallel.
        with ThreadPoolExecutor(2) as pool:
            reports = [
                pool.submit(_install_packages_and_kafka),
                pool.submit(lambda: [_install_and_report(MINIO, MINIO.install)]),
            ]
            lines = [line for report in reports for line in report.result()]
    print("\n".join(lines))
    components: tuple[Component, ...] = (*DEBIAN.values(), KAFKA, MINIO)
    return 1 if any(component.missing() for component in components) else 0


def _install_packages_and_kafka() -> list[str]:
    started = time.monotonic()
    missing = [package.name for package in DEBIAN.values() if package.missing() is not None]
    failures = _apt_install(missing)
    lines = []
    for package in DEBIAN.values():
        reason = package.missing()
        if reason is not None:
            lines.append(f"{package.name}: not installed: {failures.get(package.name, reason)}")
        elif package.name in missing:
            lines.append(f"{package.name}: installed with the others in {time.monotonic() - started:.0f} s")
        else:
            lines.append(f"{package.name}: already installed")
    return [*lines, _install_and_report(KAFKA, KAFKA.install)]


def _install_and_report(component: Component, install: Callable[[], None]) -> str:
    if component.missing() is None:
        return f"{component.name}: already installed"
    started = time.monotonic()
    try:
        install()
    except TwinError as error:
        return f"{component.name}: not installed: {error}"
    if reason := component.missing():
        return f"{component.name}: not installed: {reason}"
    return f"{component.name}: installed in {time.monotonic() - started:.0f} s"


def _apt_install(names: Sequence[str]) -> dict[str, str]:
    """Install the Debian packages `names`; returns the reason of each failure by name."""
    if not names:
        return {}
    if _which("apt-get") is None:
        return dict.fromkeys(names, "apt-get is not available")
    if os.geteuid() != 0:
        return dict.fromkeys(names, f"needs root: sudo apt-get install {' '.join(names)}")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]
    reasons: dict[str, str] = {}
    with _no_services_started():
        try:
            run(["apt-get", "update", "--quiet"], environment=environment)
            run([*install, *names], environment=environment)
        except TwinError:
            # A single unknown package makes apt-get refuse all of them, so retry them one by one.
            for name in names:
                try:
                    run([*install, name], environment=environment)
                except TwinError as error:
                    reasons[name] = str(error)
    return reasons


@contextmanager
def _no_services_started() -> Iterator[None]:
    """Prevent Debian from starting the servers on installation; `deploy.servers` starts its own instances."""
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
def _renamed_when_complete(folder: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `folder` on success, so that `folder` never holds a partial install."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _which(program: str) -> str | None:
    extra = (path.format(postgresql=versions().postgresql) for path in _EXTRA_PATHS)
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *extra]))


def _pom() -> str:
    # Kafka logs through SLF4J; log4j is the backend that Kafka's own distribution uses.
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
