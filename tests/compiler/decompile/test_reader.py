"""Every opcode of this Python is read, and only then is code decompiled at all."""

import opcode

import pytest

from torchard.compiler.decompile import UnsupportedOpcode, reader, supported_opcodes


def test_every_opcode_has_a_lowering():
    real = {
        name
        for name, number in opcode.opmap.items()
        if number < 256
        and not name.startswith("INSTRUMENTED_")
        and name not in getattr(opcode, "_specialized", ())
    }
    assert real - supported_opcodes() == set()


def test_the_exception_table_reads_as_dis_reads_it():
    import dis

    def protected(x):
        try:
            with x as y:
                return y()
        except (KeyError, ValueError) as e:
            print(e)
        finally:
            x.close()

    rows = [
        (e.start, e.end, e.target, e.depth, e.lasti) for e in dis._parse_exception_table(protected.__code__)
    ]
    assert reader.exception_table(protected.__code__) == rows


def test_an_unknown_opcode_is_named(monkeypatch):
    def function(x):
        return x + 1

    reader.read(function.__code__)
    without = [None if name == "BINARY_OP" else way for name, way in zip(opcode.opname, reader._LOWERINGS)]
    monkeypatch.setattr(reader, "_LOWERINGS", without)
    with pytest.raises(UnsupportedOpcode, match="BINARY_OP"):
        reader.read(function.__code__)
