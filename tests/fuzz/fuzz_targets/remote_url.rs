//! A URL out of a catalogue, a signed path or a redirect, and an entry of an allow-list.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendimage::model::{MediaPath, RemoteUrl, UrlPattern};

fuzz_target!(|texts: (&str, &str)| {
    let (pattern, text) = texts;
    if let Ok(path) = MediaPath::parse(text)
        && let Ok(url) = RemoteUrl::of(&path)
    {
        assert_eq!(url.path(), &path, "one file has one path");
    }
    let Ok(pattern) = pattern.parse::<UrlPattern>() else { return };
    let spelt = pattern.to_string();
    assert_eq!(spelt.parse::<UrlPattern>().as_ref(), Ok(&pattern), "{spelt:?}");
    let Ok(url) = RemoteUrl::parse(text) else { return };
    assert_eq!(RemoteUrl::of(url.path()).as_ref(), Ok(&url), "{text:?}");
    if pattern.admits(url.url()) {
        // The rule a second time, on texts: both are in their normal spelling.
        let (host_and_path, admitted) = (spelt.split_once("://").unwrap().1, url.as_str().split_once("://").unwrap().1);
        assert_eq!(spelt.split_once("://").unwrap().0, url.url().scheme());
        let (host, path) = host_and_path.split_once('/').unwrap();
        let (admitted_host, admitted_path) = admitted.split_once('/').unwrap();
        match host.strip_prefix("*.") {
            Some(name) => assert!(admitted_host.len() > name.len() + 1 && admitted_host.ends_with(&format!(".{name}"))),
            None => assert_eq!(host, admitted_host),
        }
        assert!(admitted_path.starts_with(path), "{spelt:?} admits {url}");
    }
});
