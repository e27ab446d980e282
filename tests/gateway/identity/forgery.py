"""Hostile tokens: every way we know to get one past a checker. `forged` makes them; each has to be refused.

All but the ones about signatures carry a signature that holds, so that what is wrong with them is what is named.
"""

from __future__ import annotations

import base64
import hmac
import json
import warnings
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, Key, RSAKey

from tests.gateway.identity.idp import AUDIENCE, Idp, b64, public, signature

Forged = tuple[str, str]
_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # order of the curve
SECRET = b"a secret that was published by mistake"
_BIDI = "ann\u202e"
_ODD: dict[str, Any] = {"a list": ["x"], "an object": {"x": 1}, "a number": 7, "true": True, "empty": ""}


class Forger:
    """Somebody who has an account at `idp`, keys of their own, and a server at `canary` that counts who comes."""

    def __init__(self, idp: Idp, canary: str) -> None:
        self.idp, self.canary = idp, canary
        self.own = RSAKey.generate_key(2048)
        with warnings.catch_warnings(category=SecurityWarning, action="ignore"):
            self.weak = RSAKey.generate_key(1024)
        self.curve = ECKey.generate_key("P-384")

    def entries(self) -> list[dict[str, Any]]:
        """What a careless issuer has in its JWK set besides: none of it may be used."""
        rsa, ec = self.idp.keys["RS256"], self.idp.keys["ES256"]
        return [
            public(self.weak, "weak"),
            {**public(self.own, "one"), "e": "AQ"},
            public(self.own, "for encryption", use="enc"),
            public(self.own, "for signing", key_ops=["sign"]),
            public(self.own, "for another algorithm", alg="RS512"),
            {**self.own.as_dict(private=True), "kid": "private"},
            {"kty": "oct", "k": b64(SECRET), "kid": "symmetric", "alg": "HS256"},
            {"kty": "EC", "crv": "P-256", "x": b64(b"\1" * 32), "y": b64(b"\2" * 32), "kid": "no point"},
            {**public(ec, "curve"), "crv": "P-384"},
            {**public(rsa, "n"), "n": 65537},
            {"kty": "RSA", "kid": "nothing in it"},
            {"kid": "no type"},
            public(self.own, "k" * 129),
        ]

    def all(self) -> list[Forged]:
        """Every forgery, by name."""
        makers = (self.algorithms, self.keys, self.headers, self.issuers, self.times, self.names, self.scopes)
        makers += (self.delegations, self.twice, self.encodings, self.json, self.signatures)
        return [each for make in makers for each in make()]

    def harmless(self) -> list[str]:
        """A token by each way in which forgeries are put together, with nothing wrong in it."""
        rsa, claims = self.idp.keys["RS256"], json.dumps(self.idp.claims()).encode()
        text = self._text()
        signed = f"{text}.{b64(signature('RS256', rsa, text.encode()))}"
        return [self.idp.token(), self._by("RS256", rsa), self._raw(None), self._raw(claims), signed]

    def algorithms(self) -> Iterator[Forged]:
        """An algorithm that is not the issuer's, or one that checks with what everybody has."""
        rsa = self.idp.keys["RS256"]
        public_key = json.dumps(public(rsa, "key-RS256"), separators=(",", ":")).encode()
        known = {"PEM": rsa.as_pem(private=False), "DER": rsa.as_der(private=False), "JWK": public_key}
        known |= {"PEM, stripped": known["PEM"].strip(), "no secret at all": b""}
        for name, secret in known.items():
            yield f"HS256 by the public key as {name}", self._keyed("sha256", secret, alg="HS256")
        for name, digest in {"HS384": "sha384", "HS512": "sha512"}.items():
            yield f"{name} by the public key", self._keyed(digest, known["PEM"], alg=name)
        for spelled in ("none", "None", "NONE", "nOnE", "none ", ""):
            text = f"{self._head(alg=spelled)}.{self._claims()}"
            yield f"alg {spelled!r} without a signature", text + "."
            yield f"alg {spelled!r} with something for a signature", f"{text}.{b64(b'x')}"
        for name, alg in {**_ODD, "missing": None, "lower case": "rs256", "with a space": "RS256 "}.items():
            yield f"alg is {name}", self.idp.token(header={"alg": alg})
        for other in ("RS384", "RS512", "PS512"):
            yield f"{other}, which is not the issuer's", self._by(other, rsa)
        yield "RS256 said, PS256 done", self._by("PS256", self.idp.keys["RS256"], alg="RS256")

    def keys(self) -> Iterator[Forged]:
        """A key that the token brings along, points at, or that is not one to check with."""
        jwk = public(self.own, "key-RS256")
        pointing = {"jku": self.canary, "x5u": self.canary, "jwk": jwk, "x5c": [base64.b64encode(b"cert").decode()]}
        for name, value in pointing.items():
            yield f"{name} to a key of mine", self._by("RS256", self.own, **{name: value})
            yield f"{name} beside a signature that holds", self.idp.token(header={name: value})
        yield "jku and kid of mine", self._by("RS256", self.own, jku=self.canary, kid=self.canary)
        kids = [self.canary, "../../../../dev/null", "/dev/null", "' OR '1'='1", "key-RS256\0", "file:///etc/passwd"]
        for kid in (*kids, "", "k" * 130, "|sleep 5", "ключ"):
            yield f"kid {kid[:24]!r}", self._by("RS256", self.own, kid=kid)
        for name, kid in {**_ODD, "missing": None}.items():
            yield f"kid is {name}", self.idp.token(header={"kid": kid})
        yield "kid of a key for another algorithm", self._by("ES256", self.idp.keys["ES256"], kid="key-RS256")
        for entry in self.entries():
            kid = str(entry["kid"])
            key = {"weak": self.weak, "curve": self.idp.keys["ES256"], "n": self.idp.keys["RS256"]}.get(kid, self.own)
            algorithm = "ES256" if kid in ("curve",) else "RS256"
            yield f"the key {kid[:24]!r} of the set", self._by(algorithm, key, kid=kid)
        yield "the symmetric key of the set", self._keyed("sha256", SECRET, alg="HS256", kid="symmetric")
        yield "a key of mine under the issuer's kid", self._by("RS256", self.own)
        yield "an exponent of one", f"{self._text(kid='one')}.{b64(self._padded(self._text(kid='one')))}"

    def headers(self) -> Iterator[Forged]:
        """What a header may not say."""
        for name, crit in {"empty": [], "exp": ["exp"], "b64": ["b64"], "a text": "exp", "unknown": ["x"]}.items():
            yield f"crit {name}", self.idp.token(header={"crit": crit})
        yield "b64 false", self.idp.token(header={"b64": False})
        yield "b64 true", self.idp.token(header={"b64": True})
        yield "b64 false and crit", self.idp.token(header={"b64": False, "crit": ["b64"]})
        for name in ("refresh+jwt", "logout+jwt", "dpop+jwt", "secevent+jwt", "JWE", "at+jwt ", "*", "at+JWT\0"):
            yield f"typ {name!r}", self.idp.token(header={"typ": name})
        for name, kind in {**_ODD, "missing": None}.items():
            yield f"typ is {name}", self.idp.token(header={"typ": kind})

    def issuers(self) -> Iterator[Forged]:
        """Somebody else's token, or one for somebody else."""
        iss = self.idp.iss
        for other in (
            f"{iss}/",
            iss.upper(),
            f"{iss}.evil.example",
            "https://evil.example",
            f" {iss}",
            self.canary,
        ):
            yield f"iss {other!r}", self.idp.token(iss=other)
        for name, value in {**_ODD, "missing": None}.items():
            yield f"iss is {name}", self.idp.token(iss=value)
            yield f"aud is {name}", self.idp.token(aud=value)
        audiences: list[Any] = [f"{AUDIENCE}/", AUDIENCE[:-1], AUDIENCE.upper(), f"{AUDIENCE}.evil.example", "*"]
        for aud in (*audiences, [], ["https://other.example"], [[AUDIENCE]], [AUDIENCE, 7], {AUDIENCE: 1}):
            yield f"aud {str(aud)[:48]}", self.idp.token(aud=aud)
        yield (
            "a token of another issuer, by its key, under our kid",
            self._by("RS256", self.own, iss="https://b.example"),
        )
        yield "a subject that is a SPIFFE ID, of no issuer", self.idp.token(iss=None, sub="spiffe://corp.example/bot")

    def times(self) -> Iterator[Forged]:
        """No end, an end that is none, an end too far away."""
        now = self.idp.now
        for name, value in {**_ODD, "missing": None, "a text": str(now + 600)}.items():
            yield f"exp is {name}", self.idp.token(exp=value)
        for name, value in {**_ODD, "a text": str(now)}.items():
            yield f"iat is {name}", self.idp.token(iat=value if name != "a number" else -7)
            yield f"nbf is {name}", self.idp.token(nbf=value if name != "a number" else -7)
        for name, at in {
            "past": now - 31,
            "zero": 0,
            "negative": -1,
            "huge": 1e30,
            "in a year": now + 365 * 86400,
        }.items():
            yield f"exp {name}", self.idp.token(exp=at)
        yield "a lifetime of a day and a second", self.idp.token(exp=now + 86401)
        yield "a long lifetime without iat", self.idp.token(iat=None, exp=now + 86500)
        yield "iat long ago, a long lifetime", self.idp.token(iat=now - 86400)
        yield "iat in the future", self.idp.token(iat=now + 3600)
        yield "nbf in the future", self.idp.token(nbf=now + 3600)
        for name in ("exp", "iat", "nbf"):
            for raw in ("NaN", "Infinity", "1e400", "-1e400", "1" * 101, "null"):
                said = json.dumps(self.idp.claims(**{name: "@"})).replace('"@"', raw)
                yield f"{name} {raw[:16]}", self._raw(said.encode())

    def names(self) -> Iterator[Forged]:
        """Names that are none, or that read as others."""
        bad: dict[str, Any] = {
            **_ODD,
            "CR LF": "ann\r\nX-Admin: 1",
            "NUL": "ann\0",
            "a line": "ann\n",
            "long": "a" * 257,
        }
        bad |= {"look-alike": "аnn", "bidi": _BIDI, "a space before": " ann", "escape": "\x1b[2Jann", "unit": "a\x1fb"}
        for name, value in bad.items():
            for claim in ("sub", "client_id", "jti"):
                yield f"{claim}: {name}", self.idp.token(**{claim: value})
        yield "no sub", self.idp.token(sub=None)
        yield "no agent", self.idp.token(client_id=None)
        groups: list[Any] = ["admins", {"admins": 1}, [["admins"]], ["admins", 7], [""], ["g"] * 501, ["admins\n"]]
        for value in groups:
            yield f"groups {str(value)[:24]!r}", self.idp.token(groups=value)
        yield "bound to a key", self.idp.token(cnf={"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"})

    def scopes(self) -> Iterator[Forged]:
        """A scope that is missing, or looks like the one that is needed."""
        looks = ["toolsx", "Tools", "tools.read", "xtools", "tool", "profile", "tools,profile", "tools\tprofile"]
        for scope in (*looks, "tools  profile", " tools", "tools ", "to\u200bols", "tооls", "tools\u00a0x", '"tools"'):
            yield f"scope {scope!r}", self.idp.token(scope=scope)
        for name, value in {**_ODD, "missing": None, "the right one, in a list": ["tools"]}.items():
            yield f"scope is {name}", self.idp.token(scope=value)

    def delegations(self) -> Iterator[Forged]:
        """Chains of actors that are too long, turn back, or are none."""
        yield "act of depth 5", self.idp.token(act=chain("a", "b", "c", "d", "e"))
        yield "act of depth 15", self.idp.token(act=chain(*"abcdefghijklmno"))
        yield "act that comes back", self.idp.token(act=chain("a", "b", "a"))
        yield "act that comes back at once", self.idp.token(act=chain("a", "a"))
        yield "act by the user", self.idp.token(act=chain("ann"))
        for name, value in {
            **_ODD,
            "an empty object": {},
            "a bad name": {"sub": "a\n"},
            "a list of names": ["a"],
        }.items():
            yield f"act is {name}", self.idp.token(act=value)
            yield f"act in act is {name}", self.idp.token(act={"sub": "a", "act": value})
        yield "act in act is null", self._raw(json.dumps(self.idp.claims(act={"sub": "a", "act": None})).encode())

    def twice(self) -> Iterator[Forged]:
        """One member said twice: which of them counts is not for us to guess."""
        good = json.dumps(self.idp.claims())
        for name, value in {"sub": "root", "exp": self.idp.now + 900, "scope": "tools", "aud": AUDIENCE}.items():
            yield f"{name} twice", self._raw((good[:-1] + f", {json.dumps(name)}: {json.dumps(value)}}}").encode())
            yield (
                f"{name} twice, before",
                self._raw((f"{{{json.dumps(name)}: {json.dumps(value)}, " + good[1:]).encode()),
            )
        yield "sub twice, one escaped", self._raw((good[:-1] + r', "su\u0062": "root"}').encode())
        head = json.dumps(self.idp.header())
        for name, said in {"alg": "none", "kid": "key-PS256", "typ": "JWT"}.items():
            yield f"{name} twice", self._raw(None, (head[:-1] + f', "{name}": "{said}"}}').encode())
        yield "act twice, inside", self._raw((good[:-1] + ', "act": {"sub": "a", "sub": "b"}}').encode())

    def encodings(self) -> Iterator[Forged]:
        """A text that decodes to the token, or nearly, and is another text."""
        good = self.idp.token("ES256")
        head, claims, signed = good.split(".")
        yield "padding at the end", good + "=="
        yield "padding in the head", f"{head}=.{claims}.{signed}"
        yield "padding in the claims", f"{head}.{claims}==.{signed}"
        tails = [f"{head}.{claims}.{signed[:-1]}{chr(ord(signed[-1]) + 1)}", good[:-1] + "."]
        yield from ((f"bits left over {n}", token) for n, token in enumerate(tails))
        for name, piece in {
            "space": " ",
            "newline": "\n",
            "tab": "\t",
            "star": "*",
            "NUL": "\0",
            "é": "é",
            "α": "α",
        }.items():
            yield f"{name} inside", f"{head}.{claims[:8]}{piece}{claims[8:]}.{signed}"
            yield f"{name} at the end", good + piece
        yield "the other base64 alphabet", f"{head}.{claims}.{signed.replace('-', '+').replace('_', '/')[:-4]}+/+/"
        yield "two parts", f"{head}.{claims}"
        yield "four parts", f"{good}.{signed}"
        yield "five parts, encrypted", f"{b64(json.dumps({'alg': 'dir', 'enc': 'A256GCM'}).encode())}..AAAA.AAAA.AAAA"
        yield "five parts", f"{head}.{claims}.{signed}.{claims}.{signed}"
        yield "JSON serialization", json.dumps({"payload": claims, "protected": head, "signature": signed})
        for text in ("", ".", "..", "...", f".{claims}.{signed}", f"{head}..{signed}", f"{good}.", f".{good}", "a.b.c"):
            yield f"parts {text[:6]!r} of {len(text)}", text
        yield "a lone surrogate", good + "\udc80"
        yield "twice the token", f"{good},{good}"
        yield "larger than 8 KiB", self.idp.token(more="x" * 8192)
        yield "very large", "a" * 1_000_000
        yield "very many parts", "." * 8000

    def json(self) -> Iterator[Forged]:
        """Bytes that are signed, and are no claims."""
        good = json.dumps(self.idp.claims()).encode()
        deep = b'{"a":' * 1000 + b"1" + b"}" * 1000
        bodies = {"depth 1,000": deep, "depth 17": b'{"a":' * 17 + b"1" + b"}" * 17, "brackets": b"[" * 5000}
        bodies |= {"not UTF-8": good.replace(b"ann", b"a\xff\xfe"), "UTF-16": good.decode().encode("utf-16")}
        bodies |= {"a byte order mark": b"\xef\xbb\xbf" + good, "something after": good + b"x", "two": good + good}
        bodies |= {"an array": b"[]", "a text": b'"x"', "null": b"null", "nothing": b" ", "cut off": good[:-1]}
        bodies |= {"half a surrogate": good.replace(b"ann", b"\\ud800"), "a comment": b"/**/" + good}
        bodies |= {"single quotes": good.replace(b'"', b"'"), "a comma more": good[:-1] + b",}"}
        for name, body in bodies.items():
            yield f"claims: {name}", self._raw(body)
            yield f"header: {name}", self._raw(None, body)

    def signatures(self) -> Iterator[Forged]:
        """Signatures that do not hold, or would in a careless checker."""
        for algorithm in ("RS256", "PS256", "ES256", "EdDSA"):
            good = self.idp.token(algorithm)
            head, claims, signed = good.split(".")
            raw = base64.urlsafe_b64decode(signed + "==")
            changed = b64(json.dumps(self.idp.claims(sub="root")).encode())
            yield f"{algorithm}: stripped", f"{head}.{claims}."
            yield f"{algorithm}: other claims", f"{head}.{changed}.{signed}"
            pieces = {"one bit": bytes([raw[0] ^ 1]) + raw[1:], "shorter": raw[:-1], "longer": raw + b"\0"}
            pieces |= {"zeros": bytes(len(raw)), "a zero before": b"\0" + raw, "ones": b"\xff" * len(raw), "one": b"\0"}
            for name, piece in pieces.items():
                yield f"{algorithm}: {name}", f"{head}.{claims}.{b64(piece)}"
        text = self._text("ES256")
        for name, (r, s) in {
            "r 0": (0, 1),
            "s 0": (1, 0),
            "r n": (_P256, 1),
            "s n": (1, _P256),
            "n n": (_P256, _P256),
        }.items():
            yield f"ES256: {name}", f"{text}.{b64(r.to_bytes(32) + s.to_bytes(32))}"
        yield "ES256 by a key of another curve", self._by("ES384", self.curve, alg="ES256", kid="key-ES256")
        salted = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=0)
        unsalted = self.idp.keys["PS256"].private_key.sign(self._text("PS256").encode(), salted, hashes.SHA256())
        yield "PS256 without salt", f"{self._text('PS256')}.{b64(unsalted)}"
        der = self.idp.keys["RS256"].private_key.sign(self._text().encode(), padding.PKCS1v15(), hashes.SHA1())
        yield "RS256 over SHA-1", f"{self._text()}.{b64(der)}"

    # ── pieces ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _head(self, algorithm: str = "RS256", **changed: Any) -> str:
        return b64(json.dumps(self.idp.header(algorithm, **changed)).encode())

    def _claims(self, **changed: Any) -> str:
        return b64(json.dumps(self.idp.claims(**changed)).encode())

    def _text(self, algorithm: str = "RS256", **header: Any) -> str:
        return f"{self._head(algorithm, **header)}.{self._claims()}"

    def _by(self, algorithm: str, key: Key, iss: str | None = None, **header: Any) -> str:
        """Signed by some key; the header says the good RSA key's id unless told otherwise."""
        said = self.idp.header("RS256", **{"alg": algorithm, **header})
        text = f"{b64(json.dumps(said).encode())}.{self._claims(iss=iss or self.idp.iss)}"
        return f"{text}.{b64(signature(algorithm, key, text.encode()))}"

    def _keyed(self, digest: str, secret: bytes, **header: Any) -> str:
        """With a symmetric signature."""
        text = self._text(**header)
        return f"{text}.{b64(hmac.digest(secret, text.encode(), digest))}"

    def _raw(self, claims: bytes | None, header: bytes | None = None) -> str:
        good = json.dumps(self.idp.claims()).encode()
        return self.idp.signed("RS256", header or json.dumps(self.idp.header()).encode(), claims or good)

    def _padded(self, text: str) -> bytes:
        """What a signature has to be for a key with the exponent one: the padded hash itself."""
        hashed = hashes.Hash(hashes.SHA256())
        hashed.update(text.encode())
        info = bytes.fromhex("3031300d060960864801650304020105000420") + hashed.finalize()
        return b"\0\1" + b"\xff" * (256 - 3 - len(info)) + b"\0" + info


def chain(*actors: str) -> dict[str, Any]:
    """An `act` claim, nearest actor first."""
    said: dict[str, Any] = {}
    for actor in reversed(actors):
        said = {"sub": actor, "act": said} if said else {"sub": actor}
    return said
