"""A real Kafka broker for tests: Apache Kafka 4.1.2 in KRaft mode, one node, from the jars that Maven Central has of it.

`data/kafka_jars.txt` lists the jars without which it does not start, serve producers and consumer groups, or format its directory. It
takes the codecs none and gzip: others need further jars.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from debian import program
from spanledger_clickhouse.demo import run as demo

ROOT = Path(__file__).parent.parent
JARS = ROOT / ".tools/kafka"
CENTRAL = "https://repo.maven.apache.org/maven2"
CLUSTER_ID = "c3BhbmxlZGdlcnRlc3RzMQ"  # 22 characters
JAVA = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def jars() -> Path:
    """The directory of the jars, fetched where they lack."""
    JARS.mkdir(parents=True, exist_ok=True)
    for line in (Path(__file__).parent / "data/kafka_jars.txt").read_text().splitlines():
        coordinates, digest = line.split()
        group, artifact, version = coordinates.split(":")
        file = JARS / f"{artifact}-{version}.jar"
        if not file.exists():
            with urllib.request.urlopen(
                f"{CENTRAL}/{group.replace('.', '/')}/{artifact}/{version}/{file.name}", timeout=60
            ) as answer:
                content = answer.read()
            assert hashlib.sha256(content).hexdigest() == digest, f"{coordinates} is another file than it was"
            part = file.with_suffix(".part")
            part.write_bytes(content)
            part.rename(file)
    return JARS


class KafkaBroker:
    """One broker on a free port; a topic that is written to is made, with three partitions."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.port, controller = port or demo.free_port(), demo.free_port()
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        settings = {
            "process.roles": "broker,controller", "node.id": 1, "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": self.plain, "controller.listener.names": "CONTROLLER", "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT", "log.dirs": directory / "data",
            "num.partitions": 3, "auto.create.topics.enable": "true", "offsets.topic.replication.factor": 1, "offsets.topic.num.partitions": 1,
            "group.initial.rebalance.delay.ms": 0, "log.cleaner.dedupe.buffer.size": 4 << 20, "num.network.threads": 2, "num.io.threads": 2,
        }  # fmt: skip
        self._configuration = directory / "server.properties"
        self._configuration.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self._command = [program("java", "default-jre-headless"), *JAVA, "-cp", f"{jars()}/*"]
        subprocess.run(
            [*self._command, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", self._configuration],
            check=True,
            capture_output=True,
        )
        self.process = subprocess.Popen(
            [*self._command, "kafka.Kafka", self._configuration],
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, "the broker has ended"
            assert time.monotonic() < deadline, "the broker did not start"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.2).close()
        except OSError:
            return False
        return True

    @property
    def plain(self) -> str:
        return f"PLAINTEXT://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
