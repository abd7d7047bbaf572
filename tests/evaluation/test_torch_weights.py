"""Reading PyTorch's files: both formats as PyTorch 2.13 wrote them, and everything that is refused."""

import base64
import hashlib
import io
import pickle
import zipfile
import zlib

import numpy as np
import pytest

from jimgen.errors import UserError
from jimgen.evaluation.torch_weights import folded_params, read_torch_weights

# torch.save of OrderedDict(a=arange(12).reshape(3, 4), b=a.T[1:], c=Parameter([.5, -2], float16), d=[True, False],
# e=tensor(7), f=zeros(0, 3, float64)) with a _metadata attribute; zlib, base85.
ZIP = (
    "c-p0vOK%fb6vyw_&e%+XlR!#BN&|&HoEDsU*s%k_fe{*28l(nSNLDu1*q+2ACZ3$}b^4HyBDG1|UBw4LZ2Jkis8pg#{Q&Kvt1ggOAXaR<?"
    "7esFVeTYO3c1SlE9d_^|G9I{nN>5HLMW3#2i62SgDk(<cDC(>mW8eS)&tkjvuKT5JBen~b6vZM9k0`sKKEO;Z@2C^O)LSLuY!=P2?S<AqK"
    "Q31%h!9@al2C8w;MgjZPl^e>3V*BTa_T0%hl2(xJx3f4I5H{L^52@!e0bGN-)BJGKjS#d2ep@AZ?Ce$lNoLnKV;-aLP=X!X8LJwyA+p3}a"
    "O|%|s2zwn>t9sy)&c+e|io&lHF(xd#*E15r-~vNIUYR$+?Cn()pL^IMj0ZQ9uOB{&z5`<6em-1X4$G@~dmLsBL%oTp9`yD)1CyYOz1?gED"
    "QsxbEh`*QJnxKxGrnW_bsIk4_|ZV0}@LR9!50DssAe?-9_2jCnA^7;u2wBb{Zb=T``gsiJ9M1yODC1A)C*8F_HSim4xL16*wpmK~mUa#TW"
    "Aw^?B1t<^-!ce4+5Ix;Ra>(SSlmcQI!%`Kl_a4HH+9@KalS8y<k-;+i|4mj0+qT~&RRtAO=yn_VRWqH@Dt}}iBoLx|b!h2Mlj0qeZhqbKH"
    "!WQ6!wh|lt6+sve|h!Kx70V?!>O~V^qShQ(Yob28=XzNgAHAawZ{Kiiv?<6<x6-;t_UTLG%$%)LIaJjvF*`jGxQs8lXtLO2V>W!9(Hd&KQ"
    "EFj;*lP*sKQN!1=-NApTIys-B}?ox5yvaJ7hm0d!OuQWTV?;7Lk34Z22~I`qjhricDv~F;1s=r;4FZ9B_)tXrD5_`?>ZL0io0}%v(HDHT3"
    "0^9RHetX!hT({9Zf${%4WSXV(n9a-!^OYw13ly4d>rg-6q7LKo;z7t6ehf}xk++Qsmz9Y<%wJYn;W#}jE1b^hn$jr+%+-yBk3H!!o_wS9+"
    "l@HZBHdexnlq37T5N@TfMRF-6=T+~!qD=x{Ua!Ju-SuGa}i?X5?<&wHs)|RMC@86lHIpQP7Tnf}|=rcOlCJs1{KZoP$=m4AMl)om>uu&L?"
    "M2FBUKX{Vph{+e{L<h+v$9WXtgaa%tk9K#Klb=hW*zAdGqg~8v_v2b6u8sB}ubmo+Y1Ozk+Bv-TQCzDHw1@Xrbj^q{Z6TgFTKD6eb|<18a"
    "=)YHILC?qiii(ylvPs{uMXNOc`a0q#@?SM`ZqN_7&9XKRFZ=4!4r2x3^b!GK8XDf>LN`w"
)
LEGACY = (
    "c-nQ7*>2N76o$u38fwxKcFJ0Ihb1I#7Kg1ARTYxiYHoakEXSVKMkda&$CW^el$(aaGjPErkI_frmPbJ1f@3=kGBP8d(X8M9AJ5E~|04Onz"
    "i#|me)s+LQhm(7_$gpL0wNn#LdY--SYQXfxkJOq3kJa90%HMZe2+1onsnfJ)&TfDL&8D!VMxu$`$!`YMj*;Y2?rxL2pN<#-Vm_o4H(R6q9"
    "G=XV6Y8kO^jpIv{A;VHba$2dKEe}q|Ul$GYLpd2TnFP++hK4vmmtHx*0Rik0djs{n+yzlhHvGgyxPSfgsC9IT6N{);0w(+ahiFfyLfrgA$"
    "aCMO@Qc=_!qFyQQ|8YP$n-sYiPlqpiwI28T8^q6wNffq6~TxCuy~-Nepe1{EC^QcrzYbWze3-9qFMH$zo7H4ah21dd_@iN`Y3aRw)JIGLh"
    "sIQ5_OhE{03r;LUYoX*syNj<attyxZI{u=0XP`}k~DzJnGcr<V}$%WsAa~ih`=QHsO3@++$X)o<8e}c<8TuGfca5X3MGzk2e%(a}1l1Qm="
    "eJXQfDswZDku#YZgIhY>PRSJR<jBwQ63obV|4E?RRaB@WnM3kDB-d&gvB99JgOU=rU?oRf58}R0XUtZfsWjTiY$KB(vy-?b$*FYlaPWZDj"
    "NfB$Uxx?r2p$^qxZT8`Z#fpT;88mNIK5#9uVPi>qNtCT_-*oV3Vse(bTE8TvO<wtvFKuzXq_in;mARYsAQj;Hp?VmD!JZx6{{!sVT>`pVe"
    "Di4z#wacR56w@8f$+5T}%dM"
)
FILES = {name: zlib.decompress(base64.b85decode(text)) for name, text in (("zip", ZIP), ("legacy", LEGACY))}


def read(tmp_path, content: bytes):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    return read_torch_weights(path)


def legacy(state: bytes, keys: bytes = pickle.dumps(["0"]), numbers: bytes = bytes(4)) -> bytes:
    """A file of the old format around a pickled object, with one storage of float32."""
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*head, state, keys, (len(numbers) // 4).to_bytes(8, "little"), numbers])


def pickled_tensor(offset: int, shape: tuple, strides: tuple, length: int) -> bytes:
    """The opcodes of {"w": a view of storage "0"}."""

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def numbers(values: tuple) -> bytes:
        return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"I%d\ntQ" % length
    view = storage + b"I%d\n" % offset + numbers(shape) + numbers(strides) + b"I00\n}t"
    return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"Rs."


class Attack:
    """Unpickles by calling a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name", FILES)
def test_reads_what_pytorch_wrote(name, tmp_path):
    tensors, sha256 = read(tmp_path, FILES[name])
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    wanted = {
        "a": a,
        "b": a.T[1:],  # strides and an offset into the storage that it shares with a
        "c": np.array([0.5, -2], np.float16),
        "d": np.array([True, False]),
        "e": np.array(7),
        "f": np.zeros((0, 3)),
    }
    assert list(tensors) == list(wanted)
    for key, value in wanted.items():
        assert tensors[key].dtype == value.dtype and tensors[key].shape == value.shape
        np.testing.assert_array_equal(tensors[key], value)
    tensors["a"][:] = -1
    assert tensors["b"].min() == 1  # copies: no array holds on to another
    assert sha256 == hashlib.sha256(FILES[name]).hexdigest()


@pytest.mark.parametrize(
    "state",
    [
        pickled_tensor(0, (10**6, 10**6), (0, 0), 1),  # a number repeated by strides of zero
        b"\x80\x02}r" + (2**28).to_bytes(4, "little") + b".",  # an index for which pickle would make a list of 4 GB
        b"}p%d\n." % 2**28,
    ],
)
def test_a_small_file_does_not_take_gigabytes(state, tmp_path):
    with pytest.raises(UserError, match="more elements than its storage|stored at index"):
        read(tmp_path, legacy(state))


@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_refused(name, tmp_path):
    for length in range(0, len(FILES[name]) - 1, 23):
        with pytest.raises(UserError, match="damaged, truncated"):
            read(tmp_path, FILES[name][:length])


def test_messages_do_not_quote_damaged_bytes_at_length(tmp_path):
    """Python's own message would quote the whole name of a member, here the whole file."""
    content = bytearray(FILES["zip"])
    content[26:28] = b"\xff\x7f"  # the length of the first member's name
    for flags in (7, content.index(b"PK\x01\x02") + 9):
        content[flags] &= 0xF7  # whose name need not be UTF-8
    with pytest.raises(UserError, match="damaged") as error:
        read(tmp_path, bytes(content))
    assert len(str(error.value)) < 600


def test_a_changed_byte_of_the_numbers_is_noticed(tmp_path):
    place = FILES["zip"].index(np.arange(12, dtype="<f4").tobytes())
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path, FILES["zip"][: place + 5] + b"\xff" + FILES["zip"][place + 6 :])


@pytest.mark.parametrize("form", FILES)
def test_no_foreign_function_runs(form, tmp_path):
    """A pickle that would write a file does not run."""
    victim = tmp_path / "victim"
    for attack in (Attack(open, str(victim), "w"), Attack(eval, "1"), {"w": Attack(np.load, str(victim))}):
        content = legacy(pickle.dumps(attack, 2))
        if form == "zip":
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps(attack, 2))
            content = buffer.getvalue()
        with pytest.raises(UserError, match="refused: it asks for"):
            read(tmp_path, content)
    assert not victim.exists()


def test_a_tensor_must_lie_in_its_storage(tmp_path):
    numbers = np.arange(6, dtype="<f4").tobytes()
    good, _ = read(tmp_path, legacy(pickled_tensor(1, (2, 2), (2, 1), 6), numbers=numbers))
    np.testing.assert_array_equal(good["w"], [[1, 2], [3, 4]])
    for offset, shape, strides in (
        (3, (2, 2), (2, 1)),
        (-1, (2,), (1,)),
        (5, (2,), (-1,)),
        (0, (7,), (1,)),
        (0, (2, 2), (1,)),
    ):
        with pytest.raises(UserError, match="damaged"):
            read(tmp_path, legacy(pickled_tensor(offset, shape, strides, 6), numbers=numbers))
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path, legacy(pickled_tensor(0, (9,), (1,), 9), numbers=numbers))  # fewer numbers than it says


@pytest.mark.parametrize("state", [[1, 2], {"epoch": 3}, {"model": {}}, "text"])
def test_other_objects_are_refused(state, tmp_path):
    with pytest.raises(UserError, match="more than a state dict"):
        read(tmp_path, legacy(pickle.dumps(state, 2)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot read .*nothing.pth"):
        read_torch_weights(tmp_path / "nothing.pth")


def test_folding_by_hand():
    """gamma 6, sqrt(var + epsilon) = 3, so kernels double; beta - mean * 2 = 1 - 10."""
    tensors = {
        "x.conv.weight": np.arange(12.0).reshape(2, 1, 2, 3),
        "x.bn.weight": np.array([6.0, 3.0]),
        "x.bn.bias": np.array([1.0, 2.0]),
        "x.bn.running_mean": np.array([5.0, -1.0]),
        "x.bn.running_var": np.array([8.0, 8.0]),
        "x.bn.num_batches_tracked": np.array(3),
        "fc.weight": np.arange(6.0).reshape(2, 3),
        "fc.bias": np.array([1.0, 2.0]),
    }
    params = folded_params(tensors, epsilon=1.0)
    assert set(params) == {"x.conv", "fc"}
    assert params["x.conv"]["kernel"].shape == (2, 3, 1, 2) and params["x.conv"]["kernel"].dtype == np.float32
    np.testing.assert_allclose(params["x.conv"]["kernel"][1, 2, 0], [2 * 5, 11])
    np.testing.assert_allclose(params["x.conv"]["bias"], [1 - 10, 2 + 1])
    np.testing.assert_array_equal(params["fc"]["kernel"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(params["fc"]["bias"], [1, 2])


def test_a_batch_norm_without_its_convolution_is_refused():
    norm = {f"bn.{leaf}": np.ones(3) for leaf in ("weight", "bias", "running_mean", "running_var")}
    for before in ({}, {"conv.weight": np.ones((2, 1, 1, 1))}):
        with pytest.raises(UserError, match="cannot fold bn"):
            folded_params({**before, **norm}, epsilon=1e-3)
