//! Tokens that PyJWT made (`tests/vectors/tokens`), each judged at its own moment.

use serde_json::Value;

use super::*;
use crate::{
    access::LAST_SECOND,
    config::{Secret, TokenAlgorithm, TokenKeyConfig},
    model::MediaPath,
};

fn vectors() -> Value {
    let text = include_str!("../../../tests/vectors/tokens/tokens.json");
    serde_json::from_str(text).expect("the vectors are JSON")
}

fn key(kid: &str, algorithm: TokenAlgorithm) -> TokenKeyConfig {
    let (secret, secret_base64, secret_file, public_key_file) = Default::default();
    TokenKeyConfig { kid: kid.into(), algorithm, secret, secret_base64, secret_file, public_key_file }
}

/// The config of the vectors, its key files in a folder.
fn config(vectors: &Value, folder: &std::path::Path) -> JwtConfig {
    let file = |kid: &str| {
        let path = folder.join(kid);
        std::fs::write(&path, vectors["keys"][kid].as_str().expect("a key")).expect("a file");
        Some(path)
    };
    std::fs::write(folder.join("set.json"), vectors["key_set"].to_string()).expect("a file");
    JwtConfig {
        keys: vec![
            TokenKeyConfig { secret_file: file("hs"), ..key("hs", TokenAlgorithm::HS256) },
            TokenKeyConfig { public_key_file: file("rs"), ..key("rs", TokenAlgorithm::RS256) },
            TokenKeyConfig { public_key_file: file("es"), ..key("es", TokenAlgorithm::ES256) },
            TokenKeyConfig { public_key_file: file("ed"), ..key("ed", TokenAlgorithm::EdDSA) },
        ],
        jwks_file: Some(folder.join("set.json")),
        audience: Some("images".into()),
        issuer: Some("https://site.example".into()),
        ..JwtConfig::default()
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn covers(grant: &Grant, reference: &str) -> bool {
    let nowhere = SourceRef { source: "nowhere".into(), path: MediaPath::parse("x").expect("a path") };
    match (reference.parse(), reference.split_once('/')) {
        (Ok(id), _) => grant.covers(Some(ImageId(id)), &nowhere),
        (Err(_), Some((source, path))) => match MediaPath::parse(path) {
            Ok(path) => grant.covers(None, &SourceRef { source: source.into(), path }),
            Err(_) => false,
        },
        _ => false,
    }
}

#[test]
fn every_token_of_the_vectors() {
    let vectors = vectors();
    let folder = tempfile::tempdir().expect("a folder");
    let strict = config(&vectors, folder.path());
    let checker = |rules: &str| {
        let open = || JwtConfig { audience: None, issuer: None, ..strict.clone() };
        let config = match rules {
            "strict" => strict.clone(),
            "exact" => JwtConfig { leeway_seconds: 0, ..strict.clone() },
            "open" => open(),
            "require" => JwtConfig { require_images_claim: true, ..strict.clone() },
            "template" => JwtConfig { images: vec!["users/{sub}/*".into()], ..strict.clone() },
            other => panic!("no such rules: {other}"),
        };
        Tokens::new(&config).expect("good keys")
    };
    let (mut good, mut bad) = (0, 0);
    for row in vectors["rows"].as_array().expect("rows") {
        let (name, token) = (row["name"].as_str().expect("a name"), row["token"].as_str().expect("a token"));
        let now = at(row["at"].as_u64().or(vectors["now"].as_u64()).expect("a moment"));
        let tokens = checker(row["rules"].as_str().expect("rules"));
        // Twice: the second look is at what the first one remembered.
        for _ in 0..2 {
            match (tokens.check_now(token, now), row["refused"].as_str()) {
                (Ok(Checked::Good(grant)), None) => {
                    for (reference, sees) in row["sees"].as_object().into_iter().flatten() {
                        assert_eq!(Some(covers(&grant, reference)), sees.as_bool(), "{name}: {reference}");
                    }
                    good += 1;
                }
                (Err(error), Some(refused)) => {
                    assert!(format!("{error:?}").starts_with(refused), "{name}: {error:?}, not {refused}");
                    bad += 1;
                }
                (found, refused) => panic!("{name}: {found:?}, where {refused:?} was expected"),
            }
        }
    }
    assert!(good >= 2 * 30 && bad >= 2 * 60, "{good} good, {bad} bad");
}

#[test]
fn a_remembered_token_dies_in_time() {
    let vectors = vectors();
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = Tokens::new(&config(&vectors, folder.path())).expect("good keys");
    let row = vectors["rows"].as_array().expect("rows").iter().find(|row| row["name"] == "HS256").expect("a row");
    let token = row["token"].as_str().expect("a token");
    assert!(matches!(tokens.check_now(token, at(4_102_444_804)), Ok(Checked::Good(_))));
    assert_eq!(tokens.check_now(token, at(4_102_444_805)), Err(TokenError::Expired));
    assert!(matches!(tokens.check_now(token, at(1_900_000_000)), Ok(Checked::Good(_))));
    // One flipped character is another token.
    let mut other = token.to_owned();
    other.replace_range(60..61, if &token[60..61] == "A" { "B" } else { "A" });
    assert!(tokens.check_now(&other, at(1_900_000_000)).is_err());
}

#[test]
fn a_long_token_is_not_even_looked_at() {
    let tokens = Tokens::new(&JwtConfig { images: Vec::new(), ..JwtConfig::default() }).expect("no keys");
    assert_eq!(tokens.check_now(&"a".repeat(1_000_000), at(0)), Err(TokenError::TooLong));
}

#[test]
fn unusable_keys_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let vectors = vectors();
    let good = config(&vectors, folder.path());
    let (rsa, ec) = (folder.path().join("rs"), folder.path().join("es"));
    let secret = |text: &str| Some(Secret::new(text.into()));
    let pem = vectors["keys"]["rs"].as_str().expect("a key");
    for (keys, expected) in [
        (vec![good.keys[0].clone(), good.keys[0].clone()], "auth.jwt.keys: the kid \"hs\" is used twice"),
        (vec![key("a", TokenAlgorithm::HS256)], "token key \"a\": HS256 takes exactly one of secret,"),
        (vec![key("a", TokenAlgorithm::ES256)], "token key \"a\": ES256 takes exactly one of public_key_file"),
        (
            vec![TokenKeyConfig { secret: secret("long enough to be one"), ..key("a", TokenAlgorithm::RS256) }],
            "token key \"a\": RS256 takes",
        ),
        (
            vec![TokenKeyConfig { secret: secret("short"), ..key("a", TokenAlgorithm::HS256) }],
            "token key \"a\" has 5 bytes",
        ),
        (
            vec![TokenKeyConfig { secret: secret(pem), ..key("a", TokenAlgorithm::HS256) }],
            "token key \"a\" is a key in PEM",
        ),
        (vec![TokenKeyConfig { public_key_file: Some(rsa), ..key("a", TokenAlgorithm::ES256) }], "token key \"a\": "),
        (vec![TokenKeyConfig { public_key_file: Some(ec), ..key("a", TokenAlgorithm::EdDSA) }], "token key \"a\": "),
        (
            vec![TokenKeyConfig { public_key_file: Some("/nowhere".into()), ..key("a", TokenAlgorithm::EdDSA) }],
            "token key \"a\": cannot read /nowhere",
        ),
    ] {
        let error = Tokens::new(&JwtConfig { keys, ..JwtConfig::default() }).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains("short") && !error.contains("MIIB"), "{error}");
    }
    let broken = JwtConfig { images: vec!["users/{sub/*".into()], ..JwtConfig::default() };
    assert!(Tokens::new(&broken).expect_err("a brace").to_string().starts_with("auth.jwt.images: "));
}

#[test]
fn what_is_minted_is_good() {
    let vectors = vectors();
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&vectors, folder.path());
    let tokens = Tokens::new(&config).expect("good keys");
    let images = ["42".to_owned()];
    for kid in ["hs", "rs", "es", "ed"] {
        let file = folder.path().join("private");
        std::fs::write(&file, vectors["private_keys"][kid].as_str().unwrap_or_default()).expect("a file");
        let minted = Minted {
            subject: "anna",
            images: Some(&images),
            ttl: Duration::from_secs(60),
            kid: Some(kid),
            private_key_file: Some(&file),
        };
        let token = mint(&config, &minted, at(1_900_000_000)).expect("a token");
        match tokens.check_now(&token, at(1_900_000_030)) {
            Ok(Checked::Good(grant)) => {
                assert_eq!((grant.subject(), grant.key()), (Some("anna"), kid));
                assert!(covers(&grant, "42") && !covers(&grant, "43"));
            }
            other => panic!("{kid}: {other:?}"),
        }
        assert_eq!(tokens.check_now(&token, at(1_900_000_066)), Err(TokenError::Expired));
        for ttl in [Duration::MAX, Duration::from_secs(LAST_SECOND - 1_899_999_999)] {
            let endless = mint(&config, &Minted { ttl, ..minted.clone() }, at(1_900_000_000));
            assert!(matches!(endless, Err(MintError::Life)), "{endless:?}");
        }
    }
}
