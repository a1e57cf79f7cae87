"""Adds keyvouch, of the plugin's own version, to the dependencies in pyproject.toml. The same file in each plugin."""

from hatchling.metadata.plugin.interface import MetadataHookInterface


class SameVersion(MetadataHookInterface):
    def update(self, metadata: dict[str, object]) -> None:
        metadata["dependencies"] = [*self.config["dependencies"], f"keyvouch=={metadata['version']}"]
