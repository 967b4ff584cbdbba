//! What makes `[sources.NAME.s3]` and `[store.s3]` acceptable.

use super::S3Config;

/// Longest life of a signed address: a week (Signature Version 4, `X-Amz-Expires`).
const MAX_PRESIGN_SECONDS: u64 = 7 * 86_400;

/// Looks at the bucket of a section, which is `wanted` or must not be there.
pub(super) fn check_bucket(
    section: &str,
    wanted: bool,
    bucket: Option<&S3Config>,
    problem: &mut impl FnMut(&str, String),
) {
    let table = format!("{section}.s3");
    let bucket = match (wanted, bucket) {
        (true, Some(bucket)) => bucket,
        (true, None) => return problem(&table, format!("is needed by {section}.kind = \"s3\"")),
        (false, Some(_)) => return problem(&table, format!("has no effect unless {section}.kind = \"s3\"")),
        (false, None) => return,
    };
    let mut wrong = |key: &str, message: &str| problem(&format!("{table}.{key}"), message.to_owned());
    if !is_endpoint(&bucket.endpoint) {
        wrong("endpoint", "is scheme, host and port, without a path: https://s3.example or http://10.0.0.5:3900");
    }
    if !is_bucket(&bucket.bucket) {
        wrong("bucket", "is 3 to 63 lower-case letters, digits, dots and hyphens, a letter or digit at both ends");
    }
    if !is_prefix(&bucket.prefix) {
        wrong(
            "prefix",
            "is empty, or ends in a slash and has letters, digits, '-', '_', '.' before and between its slashes",
        );
    }
    let is_word =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if !is_word(&bucket.region) {
        wrong(
            "region",
            "is a name such as us-east-1; stores without regions have one all the same, look at their settings",
        );
    }
    if bucket.access_key_id.is_empty() || !bucket.access_key_id.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
        wrong("access_key_id", "is needed: printable ASCII without a slash");
    }
    match (&bucket.secret_access_key, &bucket.secret_access_key_file) {
        (Some(_), Some(_)) => wrong("secret_access_key", "is given twice: here, and by secret_access_key_file"),
        (None, None) => wrong("secret_access_key", "is needed, here or by secret_access_key_file"),
        (Some(secret), None) if secret.expose().is_empty() => wrong("secret_access_key", "is empty"),
        _ => {}
    }
    for (key, seconds, least) in [
        ("timeout_seconds", bucket.timeout_seconds, 0.05),
        ("fresh_seconds", bucket.fresh_seconds, 0.0),
        ("stale_seconds", bucket.stale_seconds, 0.0),
    ] {
        if !(least..=1e9).contains(&seconds) {
            wrong(key, &format!("{seconds} is not a number of seconds that this can be"));
        }
    }
    if !(2..=MAX_PRESIGN_SECONDS).contains(&bucket.presign_seconds) {
        wrong("presign_seconds", "is between 2 seconds and a week (604800)");
    }
}

/// `http://host:port`: what is more would end up in signed paths.
fn is_endpoint(url: &str) -> bool {
    let Some(authority) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else { return false };
    let is_host = |host: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match address {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(plain) && !host.starts_with(['.', '-']),
        }
    };
    // A colon within brackets is the address's own.
    match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((host, port)) => is_host(host) && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok(),
        None => is_host(authority),
    }
}

/// The rule of Amazon's own, which every store keeps to.
fn is_bucket(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (3..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
        && edge(name.as_bytes().first())
        && edge(name.as_bytes().last())
        && !name.contains("..")
}

/// Unreserved characters only: nginx hands the path on decoded, and any other spelling than the signed one is refused.
fn is_prefix(prefix: &str) -> bool {
    let segment = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    prefix.is_empty()
        || (prefix.len() <= 512 && prefix.strip_suffix('/').is_some_and(|all| all.split('/').all(segment)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn good() -> S3Config {
        S3Config {
            endpoint: "https://s3.example".into(),
            bucket: "images".into(),
            access_key_id: "AKID".into(),
            secret_access_key: Some(Secret::new("canary".into())),
            ..S3Config::default()
        }
    }

    fn problems(wanted: bool, bucket: Option<&S3Config>) -> Vec<String> {
        let mut found = Vec::new();
        check_bucket("store", wanted, bucket, &mut |key: &str, message| found.push(format!("{key}: {message}")));
        found
    }

    #[test]
    fn each_key_is_looked_at() {
        assert_eq!(problems(true, Some(&good())), [""; 0]);
        assert_eq!(problems(false, None), [""; 0]);
        assert!(problems(true, None)[0].starts_with("store.s3: is needed"));
        assert!(problems(false, Some(&good()))[0].starts_with("store.s3: has no effect"));
        type Change = fn(&mut S3Config);
        let changes: [(&str, Change); 9] = [
            ("endpoint", |c| c.endpoint = String::new()),
            ("bucket", |c| c.bucket = "Images".into()),
            ("prefix", |c| c.prefix = "a b/".into()),
            ("region", |c| c.region = String::new()),
            ("access_key_id", |c| c.access_key_id = "a/b".into()),
            ("secret_access_key", |c| c.secret_access_key = None),
            ("secret_access_key", |c| c.secret_access_key_file = Some("/secret".into())),
            ("timeout_seconds", |c| c.timeout_seconds = 0.0),
            ("presign_seconds", |c| c.presign_seconds = 604_801),
        ];
        for (key, change) in changes {
            let mut bucket = good();
            change(&mut bucket);
            let found = problems(true, Some(&bucket));
            assert!(found.len() == 1 && found[0].starts_with(&format!("store.s3.{key}: ")), "{key}: {found:?}");
            assert!(!found[0].contains("canary"));
        }
    }

    #[test]
    fn endpoints_buckets_and_prefixes() {
        for (url, is) in [
            ("https://s3.eu-central-1.amazonaws.com", true),
            ("http://127.0.0.1:3900", true),
            ("http://[fd00::1]:3900", true),
            ("http://[fd00::1]", true),
            ("https://s3.example/", false),
            ("https://s3.example/path", false),
            ("https://key:secret@s3.example", false),
            ("https://s3.example?x", false),
            ("https://s3.example:port", false),
            ("https://", false),
            ("s3.example", false),
        ] {
            assert_eq!(is_endpoint(url), is, "{url}");
        }
        for (name, is) in
            [("abc", true), ("a.b-9", true), ("ab", false), ("-ab", false), ("a..b", false), ("a_b", false)]
        {
            assert_eq!(is_bucket(name), is, "{name}");
        }
        for (prefix, is) in [
            ("", true),
            ("a/", true),
            ("a/B_1.x-/", true),
            ("a", false),
            ("/a/", false),
            ("a//", false),
            ("../", false),
        ] {
            assert_eq!(is_prefix(prefix), is, "{prefix}");
        }
    }

    #[test]
    fn host_and_path_are_those_that_are_signed() {
        let at = |endpoint: &str, path_style| S3Config { endpoint: endpoint.into(), path_style, ..good() };
        for (endpoint, path_style, host, path) in [
            ("https://s3.example", true, "s3.example", "/images/r/"),
            ("https://S3.example:443", true, "s3.example", "/images/r/"),
            ("http://10.0.0.5:3900", true, "10.0.0.5:3900", "/images/r/"),
            ("https://s3.example", false, "images.s3.example", "/r/"),
        ] {
            let bucket = S3Config { prefix: "r/".into(), ..at(endpoint, path_style) };
            assert_eq!((bucket.host().as_str(), bucket.path().as_str()), (host, path));
        }
        assert_eq!(at("https://s3.example", false).bucket_endpoint(), "https://images.s3.example");
    }
}
