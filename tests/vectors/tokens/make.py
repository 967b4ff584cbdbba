#!/usr/bin/env python3
"""Makes tokens.json with PyJWT: tokens that have to be accepted or refused, with the keys that they are judged by.

    python3 -m venv venv && venv/bin/pip install PyJWT cryptography && venv/bin/python make.py >tokens.json

Each run makes fresh keys, so all rows change. `rules` names the settings that a row is judged by; `at` a moment other than
the file's own; `sees` what a good token allows. A row that is refused says why in the words of TokenError.
"""
import base64
import json
import sys

import jwt
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

NOW = 1_900_000_000            # 2030
LONG = 4_102_444_800           # 2100: good by any real clock too
PAST = 1_577_836_800           # 2020
SECRET = "a secret of the site, long enough for HS256"
OTHER_SECRET = "another secret, which nobody configured here"

rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
rsa_other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ec_key = ec.generate_private_key(ec.SECP256R1())
ec_other = ec.generate_private_key(ec.SECP256R1())
ec_384 = ec.generate_private_key(ec.SECP384R1())
ed_key = ed25519.Ed25519PrivateKey.generate()
ed_other = ed25519.Ed25519PrivateKey.generate()
set_key = ec.generate_private_key(ec.SECP256R1())


def public(key):
    return key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo).decode()


def private(key):
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode()


def b64(data):
    if isinstance(data, str):
        data = data.encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header, payload, algorithm="HS256", key=SECRET):
    """A token of these very texts, with a good signature by PyJWT's own algorithm."""
    one = jwt.get_algorithm_by_name(algorithm)
    message = f"{b64(header)}.{b64(payload)}"
    return f"{message}.{b64(one.sign(message.encode(), one.prepare_key(key)))}"


def claims(**change):
    all_claims = {"sub": "anna", "aud": "images", "iss": "https://site.example", "iat": PAST, "exp": LONG}
    all_claims.update(change)
    return {name: value for name, value in all_claims.items() if value is not None}


rows = []


def row(name, token, refused=None, rules="strict", at=None, sees=None):
    one = {"name": name, "token": token, "rules": rules, "refused": refused}
    if at is not None:
        one["at"] = at
    if sees is not None:
        one["sees"] = sees
    rows.append(one)


def hs(key=SECRET, kid="hs", algorithm="HS256", headers=None, **change):
    extra = dict(headers or {})
    if kid is not None:
        extra["kid"] = kid
    return jwt.encode(claims(**change), key, algorithm=algorithm, headers=extra)


# Good ones: each algorithm, with and without a key id.
row("HS256", hs())
row("RS256", hs(rsa_key, "rs", "RS256"))
row("ES256", hs(ec_key, "es", "ES256"))
row("EdDSA", hs(ed_key, "ed", "EdDSA"))
row("ES256 by the key set", hs(set_key, "set", "ES256"))
row("HS256 without kid", hs(kid=None))
row("RS256 without kid", hs(rsa_key, None, "RS256"))
row("ES256 without kid", hs(ec_key, None, "ES256"))
row("ES256 without kid, of the key set", hs(set_key, None, "ES256"))
row("EdDSA without kid", hs(ed_key, None, "EdDSA"))
row("typ absent", hs(headers={"typ": None}))
row("header fields that nobody heeds", hs(headers={"jku": "https://evil.example/keys", "x5u": "https://evil.example/x", "x": 1}))
row("an embedded key is not heeded", hs(headers={"jwk": {"kty": "oct", "k": b64(OTHER_SECRET)}}))

# Signatures.
for name, key, kid, algorithm in [("HS256", OTHER_SECRET, "hs", "HS256"), ("RS256", rsa_other, "rs", "RS256"),
                                  ("ES256", ec_other, "es", "ES256"), ("EdDSA", ed_other, "ed", "EdDSA")]:
    row(f"{name} by another key", hs(key, kid, algorithm), "Signature")
    row(f"{name} by another key, without kid", hs(key, None, algorithm), "Signature")
row("an embedded key of the forger's", jwt.encode(claims(), OTHER_SECRET, headers={"kid": "hs", "jwk": {"kty": "oct", "k": b64(OTHER_SECRET)}}), "Signature")
good = hs()
header, payload, signature = good.split(".")
row("no signature", f"{header}.{payload}.", "Signature")
row("half a signature", f"{header}.{payload}.{signature[:20]}", "Signature")
row("signature with padding", f"{good}=", "Signature")
row("signature in the other alphabet", hs().rsplit(".", 1)[0] + "." + base64.b64encode(b"\xff" * 32).decode().rstrip("="), "Signature")
row("a changed claim", f"{header}.{b64(json.dumps(claims(sub='bert')))}.{signature}", "Signature")
row("a changed header", f"{b64(json.dumps({'alg': 'HS256', 'kid': 'hs', 'x': 1}))}.{payload}.{signature}", "Signature")
last = signature[-1]
spelling = chr(ord(last) + 1) if last.isalnum() and last not in "9Zz" else "A"
row("another spelling of the last character", f"{header}.{payload}.{signature[:-1]}{spelling}", "Signature")

# Algorithms.
row("none", jwt.encode(claims(), None, algorithm="none", headers={"kid": "hs"}), "Algorithm")
row("none without kid", jwt.encode(claims(), None, algorithm="none"), "Algorithm")
row("None", f"{b64(json.dumps({'alg': 'None'}))}.{payload}.", "Algorithm")
row("hs256 in small letters", signed(json.dumps({"alg": "hs256", "kid": "hs"}), json.dumps(claims())), "Algorithm")
pem = public(rsa_key).encode()
message = f"{b64(json.dumps({'alg': 'HS256', 'kid': 'rs'}))}.{b64(json.dumps(claims()))}"
import hashlib
import hmac
confusion = f"{message}.{b64(hmac.new(pem, message.encode(), hashlib.sha256).digest())}"
row("the public key as a secret", confusion, "Algorithm")
message = f"{b64(json.dumps({'alg': 'HS256'}))}.{b64(json.dumps(claims()))}"
row("the public key as a secret, without kid", f"{message}.{b64(hmac.new(pem, message.encode(), hashlib.sha256).digest())}", "Signature")
row("HS512 by the same secret", hs(algorithm="HS512"), "Algorithm")
row("HS384 by the same secret", hs(algorithm="HS384"), "Algorithm")
row("RS512 by the same key", hs(rsa_key, "rs", "RS512"), "Algorithm")
row("PS256 by the same key", hs(rsa_key, "rs", "PS256"), "Algorithm")
row("ES384", hs(ec_384, "es", "ES384"), "Algorithm")
row("another key's kid", hs(kid="rs"), "Algorithm")
row("ES256 under the name of HS256's key", hs(ec_key, "hs", "ES256"), "Algorithm")
row("a kid that nobody knows", hs(kid="nobody"), "UnknownKey")
row("a kid that is a path", hs(kid="../../../../dev/null"), "UnknownKey")
row("a kid that is SQL", hs(kid="x' UNION SELECT 'a"), "UnknownKey")
row("a kid that is a URL", hs(kid="https://evil.example/key"), "UnknownKey")
row("an empty kid", hs(kid=""), "UnknownKey")

# Time.
row("no exp", hs(exp=None), "Malformed")
row("exp in quotes", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps({**claims(), "exp": str(LONG)})), "Malformed")
row("exp null", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps({**claims(), "exp": None})), "Malformed")
row("exp true", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps({**claims(), "exp": True})), "Malformed")
row("exp beyond all dates", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps({**claims(), "exp": 10**18})), "Malformed")
row("exp as 1e400", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps(claims()).replace(str(LONG), "1e400")), "Malformed")
row("exp negative", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps({**claims(), "exp": -1})), "Malformed")
row("exp with a fraction", hs(exp=LONG + 0.5))
row("exp long over", hs(exp=PAST + 1), "Expired")
row("exp 0", hs(exp=0), "Expired")
row("exp within the leeway", hs(exp=NOW - 4), at=NOW)
row("exp at the leeway's end", hs(exp=NOW - 5), "Expired", at=NOW)
row("exp this very second, without leeway", hs(exp=NOW), "Expired", rules="exact", at=NOW)
row("exp a second away, without leeway", hs(exp=NOW + 1), rules="exact", at=NOW)
row("nbf in the past", hs(nbf=PAST))
row("nbf far away", hs(nbf=LONG - 1), "NotYet")
row("nbf within the leeway", hs(nbf=NOW + 5), at=NOW)
row("nbf beyond the leeway", hs(nbf=NOW + 6), "NotYet", at=NOW)
row("nbf in quotes", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps({**claims(), "nbf": str(PAST)})), "Malformed")
row("iat in the future", hs(iat=LONG - 1), "NotYet")
row("iat in quotes", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps({**claims(), "iat": "2020"})), "Malformed")

# Whose, and for whom.
row("aud absent", hs(aud=None), "Audience")
row("aud of another", hs(aud="videos"), "Audience")
row("aud list with ours", hs(aud=["videos", "images"]))
row("aud list without ours", hs(aud=["videos"]), "Audience")
row("aud empty list", hs(aud=[]), "Audience")
row("aud a number", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps({**claims(), "aud": 7})), "Audience")
row("aud that begins like ours", hs(aud="images2"), "Audience")
row("iss absent", hs(iss=None), "Issuer")
row("iss of another", hs(iss="https://other.example"), "Issuer")
row("iss as a list", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps({**claims(), "iss": ["https://site.example"]})), "Issuer")
row("no audience wanted, none there", hs(aud=None, iss=None), rules="open")
row("no audience wanted, one there", hs(iss=None), "Audience", rules="open")
row("no issuer wanted, one there", hs(aud=None), rules="open")

# What it allows.
row("no claim images", good, sees={"42": True, "media/2024/a.jpg": True, "users/bert/a.jpg": True})
row("claim images", hs(images=["42", "media/2024/*"]), sees={"42": True, "43": False, "media/2024/a.jpg": True, "media/2024/x/y.jpg": True, "media/2025/a.jpg": False, "media/2024": False})
row("claim images with everything", hs(images=["*"]), sees={"42": True, "media/a.jpg": True})
row("claim images, empty", hs(images=[]), sees={"42": False, "media/a.jpg": False})
row("claim images no list", hs(images="42"), "Malformed")
row("claim images with a number", hs(images=[42]), "Malformed")
row("claim images null", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps({**claims(), "images": None})), "Malformed")
row("claim wanted, absent", good, rules="require", sees={"42": False, "media/a.jpg": False})
row("claim wanted, there", hs(images=["42"]), rules="require", sees={"42": True, "43": False})
row("template by sub", good, rules="template", sees={"users/anna/a.jpg": True, "users/bert/a.jpg": False, "42": False})
row("template and claim", hs(images=["42"]), rules="template", sees={"users/anna/a.jpg": True, "42": True, "43": False})
row("template, sub a star", hs(sub="*"), rules="template", sees={"users/anna/a.jpg": False, "users/*/a.jpg": True})
row("template, sub two segments", hs(sub="bert/x"), rules="template", sees={"users/bert/x/a.jpg": False})
row("template, sub dots", hs(sub=".."), rules="template", sees={"users/../a.jpg": False, "users/anna/a.jpg": False})
row("template, no sub", hs(sub=None), rules="template", sees={"users/anna/a.jpg": False, "users//a.jpg": False})

# Shapes.
row("two parts", f"{header}.{payload}", "Malformed")
row("four parts", f"{good}.x", "Malformed")
row("five parts, as if encrypted", f"{good}.x.y", "Malformed")
row("dots", "..", "Malformed")
row("one word", "token", "Malformed")
row("header no JSON", signed("x", json.dumps(claims())), "Malformed")
row("header a list", signed("[]", json.dumps(claims())), "Malformed")
row("header without alg", signed(json.dumps({"kid": "hs"}), json.dumps(claims())), "Malformed")
row("alg a list", signed(json.dumps({"alg": ["HS256"], "kid": "hs"}), json.dumps(claims())), "Malformed")
row("kid a number", signed(json.dumps({"alg": "HS256", "kid": 1}), json.dumps(claims())), "Malformed")
row("alg twice", signed('{"alg":"none","alg":"HS256","kid":"hs"}', json.dumps(claims())), "Malformed")
row("crit", signed(json.dumps({"alg": "HS256", "kid": "hs", "crit": ["exp"], "exp": 1}), json.dumps(claims())), "Malformed")
row("b64 false under crit", signed(json.dumps({"alg": "HS256", "kid": "hs", "crit": ["b64"], "b64": False}), json.dumps(claims())), "Malformed")
row("claims no JSON", signed(json.dumps({"alg": "HS256", "kid": "hs"}), "x"), "Malformed")
row("claims a list", signed(json.dumps({"alg": "HS256", "kid": "hs"}), "[]"), "Malformed")
row("claims cut", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps(claims())[:-1]), "Malformed")
row("claims with more behind", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps(claims()) + "{}"), "Malformed")
row("claims no UTF-8", signed(json.dumps({"alg": "HS256", "kid": "hs"}), b'{"sub":"\xff"}'), "Malformed")
row("exp twice", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps(claims())[:-1] + f',"exp":{LONG}}}'), "Malformed")
row("sub twice", signed(json.dumps({"alg": "HS256", "kid": "hs"}), json.dumps(claims())[:-1] + ',"sub":"bert"}'), "Malformed")
row("header in padded base64", base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "h"}).encode()).decode() + f"=.{payload}.{signature}", "Malformed")
row("8,193 bytes", hs(padding="x" * 9000), "TooLong")
row("nested beyond measure", signed(json.dumps({"alg": "HS256", "kid": "hs"}), '{"a":' * 400 + "1" + "}" * 400), "Malformed")

jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(set_key.public_key()))
jwk.update(kid="set", use="sig", alg="ES256")
others = [
    {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa_other.public_key())), "kid": "enc", "use": "enc"},
    {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(ec_384.public_key())), "kid": "p384"},
    {"kty": "unheard-of", "kid": "odd"},
]
json.dump({
    "made_by": f"PyJWT {jwt.__version__}",
    "now": NOW,
    "keys": {"hs": SECRET, "rs": public(rsa_key), "es": public(ec_key), "ed": public(ed_key)},
    "private_keys": {"rs": private(rsa_key), "es": private(ec_key), "ed": private(ed_key)},
    "key_set": {"keys": [*others, jwk]},
    "rows": rows,
}, sys.stdout, indent=1)
print()
print(len(rows), "rows", file=sys.stderr)
