//! A token as a stranger sends it, and header and claims that a good key has signed, whatever they say.
#![no_main]

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use libfuzzer_sys::fuzz_target;
use sendimage::{
    access::token::{Checked, Tokens},
    config::{JwtConfig, Secret, TokenAlgorithm, TokenKeyConfig},
    model::{ImageId, MediaPath, SourceRef},
};
use serde_json::Value;

const SECRET: &str = "a secret that the fuzzer does not guess";
const NOW: u64 = 1_900_000_000;
const LEEWAY: u64 = 5;

static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
    let key = TokenKeyConfig {
        kid: "k".into(),
        algorithm: TokenAlgorithm::HS256,
        secret: Some(Secret::new(SECRET.into())),
        secret_base64: None,
        secret_file: None,
        public_key_file: None,
    };
    let config = JwtConfig {
        keys: vec![key],
        leeway_seconds: LEEWAY,
        images: vec!["users/{sub}/*".into()],
        ..JwtConfig::default()
    };
    Tokens::new(&config).expect("a good key")
});

fuzz_target!(|texts: (&str, &str)| {
    let (header, claims) = texts;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    for forged in [header.to_owned(), format!("{header}.{claims}"), format!("{header}.{claims}.{header}")] {
        assert!(TOKENS.check_now(&forged, now).is_err(), "{forged:?}");
    }
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let signature = crypto::sign(message.as_bytes(), &EncodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS256);
    let token = format!("{message}.{}", signature.expect("a signature"));
    let Ok(Checked::Good(grant)) = TOKENS.check_now(&token, now) else { return };
    // What is good says so in the plainest reading.
    let header: Value = serde_json::from_str(header).expect("a header");
    let claims: Value = serde_json::from_str(claims).expect("claims");
    assert_eq!(header["alg"], "HS256");
    assert!(header.get("crit").is_none() && (header.get("kid").is_none() || header["kid"] == "k"));
    assert!(claims["exp"].as_f64().expect("exp") > (NOW - LEEWAY) as f64);
    assert!(claims.get("aud").is_none());
    let path = SourceRef { source: "users".into(), path: MediaPath::parse("nobody/a.jpg").expect("a path") };
    if grant.covers(Some(ImageId(42)), &path) {
        assert!(claims.get("images").is_some() || claims["sub"] == "nobody", "{claims}");
    }
});

fn encoded(text: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(text)
}
