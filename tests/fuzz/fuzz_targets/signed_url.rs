//! A raw path and query, as nginx hands them on, through the route table.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sendimage::{
    access::{RouteTable, SignedUrl, Subject, UrlParts},
    config::{Config, Secret},
};

static TABLE: LazyLock<RouteTable> = LazyLock::new(|| {
    let mut config = Config::default();
    config.signing.secret = Some(Secret::new("0123456789abcdef".into()));
    RouteTable::new(&config).expect("a table")
});

fuzz_target!(|target: &str| {
    // Half of the inputs begin behind the prefix, which a mutator seldom guesses.
    let prefix = &TABLE.routes()[0].prefix;
    for target in [target.to_owned(), format!("{prefix}{target}")] {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target.as_str(), None),
        };
        if let Ok((route, url)) = TABLE.resolve(path, query) {
            clean(&url);
            again(&route.prefix, &url);
        }
    }
});

/// What resolves holds nothing that could be read in two ways.
fn clean(url: &SignedUrl<'_>) {
    let mut segments = vec![url.signature.as_ref(), url.filter_spec.as_ref()];
    match &url.subject {
        Subject::Id(id) => assert!(!id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()), "{id:?}"),
        Subject::Path { source, path } => {
            segments.push(source);
            segments.extend(path.split('/'));
        }
    }
    for segment in segments {
        assert!(!matches!(segment, "" | "." | ".."), "{url:?}");
        assert!(!segment.contains(|c: char| c == '/' || c.is_control()), "{url:?}");
    }
    for value in [&url.query.expires, &url.query.download].into_iter().flatten() {
        assert!(!value.is_empty() && !value.contains(char::is_control), "{url:?}");
    }
}

/// Building a URL of the parts and taking it apart gives the parts back.
fn again(prefix: &str, url: &SignedUrl<'_>) {
    let expires = url.query.expires.as_deref().and_then(|text| text.parse::<u64>().ok());
    let built = UrlParts {
        prefix,
        signature: &url.signature,
        subject: &url.subject,
        filter_spec: &url.filter_spec,
        filename: "",
        expires,
        download: url.query.download.as_deref(),
    }
    .build();
    assert!(built.bytes().all(|b| b.is_ascii_graphic()), "{built:?}");
    let (path, query) = built.split_once('?').map_or((built.as_str(), None), |(path, query)| (path, Some(query)));
    let (_, found) = TABLE.resolve(path, query).expect(&built);
    assert_eq!(
        (&found.signature, &found.subject, &found.filter_spec),
        (&url.signature, &url.subject, &url.filter_spec)
    );
    assert_eq!(found.query.download, url.query.download);
    assert_eq!(found.query.expires.as_deref(), expires.map(|seconds| seconds.to_string()).as_deref());
    assert_eq!(found.query.problem, None);
}
