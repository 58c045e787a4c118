"""Plans: which fields an operation asks of which types, found out once for all its requests.

Fields are collected by graphql-core itself, so fragments, aliases, @skip and @include mean what
they always mean. A plan holds for one operation of one document and for the variables that its
directives depend on; arguments are filled in for each request.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, cast

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLString,
    GraphQLUnionType,
    OperationDefinitionNode,
    get_named_type,
    get_nullable_type,
    is_leaf_type,
    is_list_type,
)
from graphql.execution.collect_fields import (
    FieldDetails,
    FragmentDetails,
    collect_fields,
    collect_subfields,
)
from graphql.execution.values import VariableValues
from strawberry.schema import Schema
from strawberry.types.base import StrawberryObjectDefinition
from strawberry.types.field import StrawberryField

from lifecycle.leaves import Leaf, Leaves
from schema.execution.arguments import Arguments, Texts
from schema.execution.columns import (
    Abstract,
    List,
    Nodes,
    Objects,
    Rows,
    Scalar,
    Type,
    Unusual,
    Written,
    WrittenList,
    is_written,
)
from schema.loaded import Access, Finding, declared
from schema.rows import HoldsRows, OfRow, look_up

# PostgreSQL writes objects whose names have so many characters together.
_NAMES = 1_000


@dataclass(frozen=True, eq=False, slots=True)
class TypeName:
    """`__typename`."""

    name: str
    type: Type


@dataclass(frozen=True, eq=False, slots=True)
class Attribute:
    """A field that is read from its object, or from the row that the object shows."""

    name: str
    read: Callable[[Any], Any]
    of_row: bool
    type: Type


@dataclass(frozen=True, eq=False, slots=True)
class Loaded:
    """A field that says how its objects are found: for each key, which `read` gives, many of them,
    or one. `names` are the attributes of their rows that will be looked at; None if that may be
    any. Pages are shown as connections of objects of that `kind`, or as they are, when it is None:
    then only their nodes are asked for. What has `leaves` comes written."""

    definition: GraphQLField
    access: Access
    kind: type[OfRow[Any]] | None
    many: bool
    read: Callable[[Any], Any]
    type: Type
    names: frozenset[str] | None
    arguments: Arguments
    leaves: Leaves | None


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """A field that says how its one object is found by its arguments. What is `ahead` is written,
    and can be asked for along with the object. The rest as of Loaded."""

    finding: Finding
    type: Type
    names: frozenset[str] | None
    arguments: Arguments
    leaves: Leaves | None
    ahead: tuple[Loaded, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Resolved:
    """A field with a resolver, as it is asked for here. `info` is the argument that is told about
    the field, if there is one. `names` are the attributes of the rows that it gives which will be
    looked at; None if that may be any."""

    parent: GraphQLObjectType
    definition: GraphQLField
    field: StrawberryField
    method: Callable[..., Any]
    info: str | None
    nodes: list[FieldNode]
    type: Type
    names: frozenset[str] | None
    arguments: Arguments


Field = TypeName | Attribute | Loaded | Found | Resolved


@dataclass(eq=False, slots=True)
class Selection:
    """What is selected of objects of one type: a field for each name in the answer. `kind` is their
    class, which they must have if it is `required`; else any with these attributes will do.
    `looked_at` are the attributes of the row of each, or of the rows in it, that the fields look
    at; `length` is that of the names."""

    kind: type
    required: bool
    names: tuple[str, ...]
    fields: tuple[Field, ...]
    looked_at: frozenset[str] | None
    length: int


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """A compiled operation. `size` is how many fields it has, with fragments expanded; `texts` are
    its variables, if they are all of that kind."""

    operation: OperationDefinitionNode
    texts: Texts | None
    fragments: dict[str, FragmentDefinitionNode]
    root: Selection
    size: int


class Compiler:
    """Compiles one operation."""

    def __init__(
        self,
        strawberry_schema: Schema,
        document: DocumentNode,
        operation: OperationDefinitionNode,
        variables: VariableValues,
    ) -> None:
        self._strawberry = strawberry_schema
        self._schema = strawberry_schema._schema
        self._operation = operation
        self._variables = variables
        self._fragments = {
            definition.name.value: definition
            for definition in document.definitions
            if isinstance(definition, FragmentDefinitionNode)
        }
        self._details = {name: FragmentDetails(node) for name, node in self._fragments.items()}
        self._size = 0

    def plan(self) -> Plan:
        """The operation as it is executed. Raises Unusual, and GraphQLError for directives whose
        variables have no usable value."""
        root = self._schema.query_type
        assert root is not None
        collected = collect_fields(
            self._schema, self._details, self._variables, root, self._operation
        )
        selection = self._selection(root, collected.grouped_field_set)
        texts = Texts.of(self._strawberry, self._operation)
        return Plan(self._operation, texts, self._fragments, selection, self._size)

    def _selection(
        self, parent: GraphQLObjectType, grouped: dict[str, list[FieldDetails]]
    ) -> Selection:
        self._size += len(grouped)
        fields = tuple(self._field(parent, details) for details in grouped.values())
        required = parent.is_type_of is not None
        kind = _class_of(parent) if required else _definition(parent).origin
        length = sum(map(len, grouped))
        return Selection(kind, required, tuple(grouped), fields, _looked_at(kind, fields), length)

    def _field(self, parent: GraphQLObjectType, details: list[FieldDetails]) -> Field:
        name = details[0].node.name.value
        if name == "__typename":
            return TypeName(parent.name, Scalar(False, GraphQLString))
        definition = parent.fields.get(name)
        if definition is None:
            raise Unusual("introspection")
        field: StrawberryField = definition.extensions["strawberry-definition"]
        if field.is_basic_field:
            return self._attribute(parent, field.python_name, self._type(definition.type, details))
        resolve = field.base_resolver
        how = declared(resolve) if resolve else None
        if isinstance(how, Access):
            return self._loaded(how, definition, details)
        arguments = self._arguments(definition, details[0])
        if how is not None:
            leaves, type_ = self._shown(how.leaves, definition.type, details)
            next_ = type_.selection.fields if isinstance(type_, Rows) else ()
            ahead = tuple(each for each in next_ if isinstance(each, Loaded) and each.leaves)
            return Found(how, type_, type_.looked_at, arguments, leaves, ahead)
        type_ = self._type(definition.type, details)
        if field.extensions or resolve is None:
            raise Unusual("a field with extensions")
        if not resolve.self_parameter or resolve.parent_parameter or resolve.root_parameter:
            raise Unusual("a resolver that is no method")
        info = resolve.info_parameter
        return Resolved(
            parent,
            definition,
            field,
            cast("Callable[..., Any]", resolve.wrapped_func),
            info.name if info else None,
            [each.node for each in details],
            type_,
            type_.looked_at,
            arguments,
        )

    def _attribute(self, parent: GraphQLObjectType, name: str, type_: Type) -> Attribute:
        kind = _definition(parent).origin
        found = look_up(kind, name)
        if found is None:
            return Attribute(name, attrgetter(name), of_row=False, type=type_)
        return Attribute(name, found.reader(kind), of_row=True, type=type_)

    def _loaded(
        self, access: Access, definition: GraphQLField, details: list[FieldDetails]
    ) -> Loaded:
        kind, leaves = None, None
        nodes = self._only_nodes(definition, details) if access.counts is not None else None
        if access.counts is not None and nodes is None:
            kind = access.kind(definition.type)
            type_ = self._type(definition.type, details)
        else:
            name, shown, asked = nodes or (None, definition.type, details)
            leaves, type_ = self._shown(access.leaves, shown, asked)
            type_ = Nodes(name, type_) if name is not None else type_
        return Loaded(
            definition,
            access,
            kind,
            is_list_type(get_nullable_type(definition.type)),
            attrgetter(access.by),
            type_,
            type_.looked_at,
            self._arguments(definition, details[0]),
            leaves,
        )

    def _only_nodes(
        self, definition: GraphQLField, details: list[FieldDetails]
    ) -> tuple[str, GraphQLOutputType, list[FieldDetails]] | None:
        """By which name the nodes of a connection are asked for, if nothing else of it is."""
        connection = get_nullable_type(definition.type)
        assert isinstance(connection, GraphQLObjectType)
        grouped = self._grouped(connection, details)
        if [each[0].node.name.value for each in grouped.values()] != ["nodes"]:
            return None
        ((name, asked),) = grouped.items()
        return name, connection.fields["nodes"].type, asked

    def _shown(
        self, may_be_written: bool, type_: GraphQLOutputType, details: list[FieldDetails]
    ) -> tuple[Leaves | None, Type]:
        """How objects that come as rows, or lists of them, are shown: as leaves where they can
        be."""
        leaves = self._leaves(type_, details) if may_be_written else None
        if leaves is None:
            return None, self._type(type_, details, rows=True)
        of, fields = get_nullable_type(type_), len(leaves)
        if is_list_type(of):
            return leaves, WrittenList(fields)
        return leaves, Written(of is type_, fields)

    def _leaves(self, type_: GraphQLOutputType, details: list[FieldDetails]) -> Leaves | None:
        """What is selected of objects, if PostgreSQL can write all of it."""
        parent = get_named_type(type_)
        assert isinstance(parent, GraphQLObjectType)
        grouped = self._grouped(parent, details)
        leaves = Leaves(
            leaf
            for name, each in grouped.items()
            if (leaf := self._leaf(parent, name, each[0].node.name.value)) is not None
        )
        # Of what shows nothing of its row nobody would know that it is there.
        if len(leaves) < len(grouped) or all(leaf.attribute is None for leaf in leaves):
            return None
        # A name is held once here, too, however many objects have it.
        if sum(map(len, grouped)) > _NAMES:
            return None
        # What is shown again is held once here; there it would be written as often, and copied for
        # each.
        columns = [leaf[1:] for leaf in leaves if leaf.attribute is not None]
        if len(set(columns)) < len(columns):
            return None
        self._size += len(grouped)
        return leaves

    def _leaf(self, parent: GraphQLObjectType, name: str, field_name: str) -> Leaf | None:
        """The field of this name, if PostgreSQL would write it as it is shown."""
        if field_name == "__typename":
            return Leaf(name, None, parent.name)
        definition = parent.fields.get(field_name)
        if definition is None:
            return None
        field: StrawberryField = definition.extensions["strawberry-definition"]
        kind = _definition(parent).origin
        found = look_up(kind, field.python_name)
        if found is None or found.leaf is None:
            return None
        if found.is_id:
            return Leaf(name, found.leaf, kind.__name__)
        return Leaf(name, found.leaf) if is_written(definition.type) else None

    def _arguments(self, definition: GraphQLField, details: FieldDetails) -> Arguments:
        return Arguments(self._strawberry, definition, details, self._operation)

    def _type(
        self,
        type_: GraphQLOutputType,
        details: list[FieldDetails],
        nullable: bool = True,
        rows: bool = False,
    ) -> Type:
        """How values of a type are completed; with `rows`, objects come as the rows they show."""
        if isinstance(type_, GraphQLNonNull):
            return self._type(type_.of_type, details, nullable=False, rows=rows)
        if isinstance(type_, GraphQLList):
            return List(nullable, self._type(type_.of_type, details, rows=rows))
        if is_leaf_type(type_):
            return Scalar(nullable, type_)
        if isinstance(type_, GraphQLObjectType):
            return (Rows if rows else Objects)(nullable, self._of(type_, details))
        assert isinstance(type_, GraphQLInterfaceType | GraphQLUnionType)
        possible = self._schema.get_possible_types(type_)
        return Abstract(nullable, {_class_of(each): self._of(each, details) for each in possible})

    def _of(self, type_: GraphQLObjectType, details: list[FieldDetails]) -> Selection:
        return self._selection(type_, self._grouped(type_, details))

    def _grouped(
        self, type_: GraphQLObjectType, details: list[FieldDetails]
    ) -> dict[str, list[FieldDetails]]:
        return collect_subfields(
            self._schema, self._details, self._variables, self._operation, type_, details
        ).grouped_field_set


def _looked_at(kind: type, fields: Iterable[Field]) -> frozenset[str] | None:
    """What these fields of one class look at in its row, or in the rows that it holds."""
    if not issubclass(kind, OfRow | HoldsRows):
        return None
    found: set[str] = set()
    for field in fields:
        names: Iterable[str] | None
        if isinstance(field, TypeName | Found):
            names = ()
        elif isinstance(field, Loaded):
            names = (field.access.by,)
        elif issubclass(kind, OfRow):
            names = kind.keys if isinstance(field, Resolved) else _needs(kind, field.name)
        else:
            loads = isinstance(field, Resolved) and field.field.is_async
            names = () if loads or isinstance(field.type, Scalar) else field.type.looked_at
        if names is None:
            return None
        found.update(names)
    return frozenset(found)


def _needs(kind: type, name: str) -> Iterable[str] | None:
    found = look_up(kind, name)
    return found.needs if found else None


def _definition(type_: GraphQLObjectType) -> StrawberryObjectDefinition:
    definition: StrawberryObjectDefinition = type_.extensions["strawberry-definition"]
    return definition


def _class_of(type_: GraphQLObjectType) -> type:
    definition = _definition(type_)
    if definition.is_type_of or definition.concrete_of:
        raise Unusual("a type that is not told by its class")
    return definition.origin
