"""Types as protobuf messages: the form in which the CEL checker takes them. The only importer of google.protobuf.

Messages are for checking alone; no value ever becomes one. Names are private to one `Messages`.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from google.protobuf import struct_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from gateway.policy.syntax import ITEM, Path
from gateway.policy.typed import Items, Object, Type

PREFIX = "toolgate."
_SCALARS = {
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "int": FieldDescriptorProto.TYPE_INT64,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "string": FieldDescriptorProto.TYPE_STRING,
}
# Messages that CEL knows: a map, a list and a value of any kind.
_STRUCT, _LIST, _VALUE = ".google.protobuf.Struct", ".google.protobuf.ListValue", ".google.protobuf.Value"


class Messages:
    """Variables whose types are messages. `kinds` has the kind of each variable, `paths` what each message stands for.

    Objects at a path in `loose` may be used in any way, as if nothing was known of them.
    """

    def __init__(self, variables: Mapping[str, Type], loose: Set[Path] = frozenset()) -> None:
        self.paths: dict[str, Path] = {}
        # With the legacy option of proto2, `fooBar` and `foo_bar` may stand side by side.
        self._file = FileDescriptorProto(name="toolgate.proto", package="toolgate", syntax="proto2")
        self._file.dependency.append(struct_pb2.DESCRIPTOR.name)
        self._loose = loose
        self.kinds = {name: self._variable(name, each) for name, each in variables.items()}
        self.pool = DescriptorPool()
        self.pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
        self.pool.AddSerializedFile(self._file.SerializeToString())

    def _variable(self, name: str, found: Type) -> str:
        return self._message(found, (name,)) if isinstance(found, Object) and (name,) not in self._loose else "any"

    def _message(self, found: Object, path: Path) -> str:
        """The full name of a new message for what stands at the path."""
        name = f"M{len(self.paths)}"
        self.paths[PREFIX + name] = path
        made = self._file.message_type.add(name=name)
        made.options.deprecated_legacy_json_field_conflicts = True
        for number, (field, each) in enumerate(found.fields, 1):
            # Any other name can only be read as args["name"], and that is never the name of a message's field.
            if field.isascii() and field.isidentifier():
                self._field(made, number, field, each, (*path, field))
        return PREFIX + name

    def _field(self, made: DescriptorProto, number: int, name: str, found: Type, path: Path) -> None:
        field = made.field.add(
            name=name, number=number, json_name=f"f{number}", label=FieldDescriptorProto.LABEL_OPTIONAL
        )
        if isinstance(found, Items) and (isinstance(found.of, Object) or found.of in ("map", *_SCALARS)):
            field.label = FieldDescriptorProto.LABEL_REPEATED
            found, path = found.of, (*path, ITEM)
        if isinstance(found, str) and found in _SCALARS:
            field.type = _SCALARS[found]
        else:
            field.type = FieldDescriptorProto.TYPE_MESSAGE
            field.type_name = self._named(found, path)

    def _named(self, found: Type, path: Path) -> str:
        if isinstance(found, Items):
            return _LIST
        if isinstance(found, Object) and path not in self._loose:
            return "." + self._message(found, path)
        return _STRUCT if found == "map" else _VALUE
