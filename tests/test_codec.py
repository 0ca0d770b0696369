"""Bodies to bytes and back, plain and typed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from zmqkit.codec import Schema, Undecodable, packer, unencodable, unpack, unpack_all
from zmqkit.errors import Unencodable


@dataclass
class Address:
    street: str
    number: int = 1


@dataclass
class Person:
    name: str
    addresses: list[Address] = field(default_factory=list)
    age: int | None = None
    height: float = 0.0
    pair: tuple[int, str] = (0, "")


class Order(TypedDict):
    item: str
    count: NotRequired[int]
    kind: NotRequired[Literal["new", "old"]]


@pytest.mark.parametrize("body", [None, True, 1, -(2**63), 2**64 - 1, 1.5, "ü", b"\x00\xff", [1, [2]], {"a": {"b": None}}, {1: 2}])
def test_what_msgpack_carries_comes_back_as_it_was(body: Any) -> None:
    assert unpack(packer()(body)) == body


@pytest.mark.parametrize("body", [object(), {1, 2}, 2**65, lambda: None, ["a", 1j]])
def test_what_msgpack_cannot_carry_is_named(body: Any) -> None:
    pack = packer()
    with pytest.raises((TypeError, ValueError, OverflowError)) as caught:
        pack(body)
    assert "cannot send" in str(unencodable(body, caught.value))
    assert pack("after") == packer()("after")  # nothing of the failed one is left behind


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91", b"\x01\x02", b"\xd4\x01\x00"])
def test_what_is_no_body_is_undecodable(data: bytes) -> None:
    with pytest.raises(Undecodable):
        unpack(data)


def test_many_bodies_are_decoded_at_once() -> None:
    bodies = [{"n": n} for n in range(300)]
    assert unpack_all(300, b"".join(map(packer(), bodies))) == bodies
    with pytest.raises(Undecodable):
        unpack_all(2, b"\x01")


def test_a_dataclass_goes_and_comes_back() -> None:
    person = Person("Ada", [Address("St James", 12)], 36, 1.7, (1, "x"))
    schema = Schema(Person)
    assert schema.load(unpack(packer()(schema.dump(person)))) == person


def test_defaults_may_be_missing_and_an_int_is_a_float() -> None:
    assert Schema(Person).load({"name": "Ada", "height": 2}) == Person("Ada", height=2.0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "name"),
        ({"name": 1}, "body.name is int, not str"),
        ({"name": "a", "addresses": [{"street": "b", "number": "c"}]}, r"body.addresses\[0\].number is str"),
        ({"name": "a", "age": True}, "bool"),
        ({"name": "a", "extra": 1}, "'extra'"),
        ([], "list, not Person"),
    ],
)
def test_a_wrong_body_is_refused_with_the_place(body: Any, reason: str) -> None:
    with pytest.raises(Undecodable, match=reason):
        Schema(Person).load(body)


def test_a_wrong_value_is_refused_at_the_sender() -> None:
    with pytest.raises(Unencodable, match="name is int"):
        Schema(Person).dump(Person(1))  # type: ignore[arg-type]


def test_a_typed_dict_is_checked() -> None:
    schema = Schema(Order)
    assert schema.load({"item": "pear", "count": 2, "kind": "new"}) == {"item": "pear", "count": 2, "kind": "new"}
    for wrong in ({}, {"item": "pear", "colour": 1}, {"item": "pear", "kind": "odd"}):
        with pytest.raises(Undecodable):
            schema.load(wrong)


def test_a_model_with_its_own_validation_is_used_through_it() -> None:
    class Model:
        """As pydantic's BaseModel: model_validate and model_dump."""

        def __init__(self, value: int) -> None:
            self.value = value

        @classmethod
        def model_validate(cls, body: Any) -> Model:
            if not isinstance(body, dict) or type(body.get("value")) is not int:
                raise ValueError("value must be an int")
            return cls(body["value"])

        def model_dump(self, mode: str) -> Any:
            return {"value": self.value}

    schema = Schema(Model)
    assert schema.load(schema.dump(Model(3))).value == 3
    with pytest.raises(Undecodable, match="must be an int"):
        schema.load({"value": "x"})
