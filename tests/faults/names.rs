//! Names of files, from wherever they come: in headers they are names and nothing else.

use std::collections::BTreeSet;

use crate::{
    client::{Client, Fields, native_url, path_url},
    harness::{KEY, Response, Site},
    report::Row,
    tools::{self, random, scale},
};

const KEYS: &[u8] = KEY.as_bytes();

/// T22: no name of a file, however it came about, writes a header of its own.
#[test]
fn names_write_no_headers() {
    let row = Row::begin("names write no headers", "T22 T14");
    let config = "[catalogue]\nkind = \"sqlite\"\nurl = \"sqlite://{dir}/images.sqlite3\"\nsource = \"media\"\n\
                  query = \"SELECT file FROM images WHERE id = ?\"\n[log]\nlevel = \"error\"\n";
    let site = Site::new(config);
    let marks = [
        "\"",
        "'",
        "\\",
        ";",
        "%0d%0aX-Evil: 1",
        "%0a",
        "\u{a0}",
        "\u{2028}",
        "\u{2029}",
        "\u{feff}",
        "é",
        "e\u{301}",
        "名前",
        "🖼",
        "a b",
        " a",
        "a ",
        "a=b",
        "a,b",
        "a;filename=b",
        "a\";x=\"",
        "*",
        "..a",
        "a%",
        "%22",
        "~",
        "\u{202e}gpj.a",
        "=?utf-8?q?a?=",
    ];
    let controls = ["\r\nX-Evil: 1", "\n", "\r", "\0", "\u{85}", "\u{7f}", "\u{1b}[2J", "\t", "\u{9b}"];
    let mut names: Vec<String> = marks.iter().map(|mark| format!("n{mark}n")).collect();
    names.extend(["n".repeat(240), "é".repeat(120), "\"".repeat(240)]);
    let mut random = random("names write no headers");
    for _ in 0..scale(100, 3_000) {
        let length = random.usize(1..40);
        let name: String = (0..length).map(|_| char::from_u32(random.u32(0x20..0x2FF)).unwrap_or('x')).collect();
        names.push(name.chars().filter(|c| !c.is_control() && !matches!(c, '/' | '\\')).collect::<String>() + "n");
    }
    let photo = std::fs::read(crate::vectors::folder().join("images/tiny_3x2.png")).unwrap();
    let (mut entries, mut files) = (Vec::new(), BTreeSet::new());
    for (number, name) in names.iter().enumerate() {
        let path = format!("{name}.png");
        if !path.contains('\\') && path.len() < 255 {
            std::fs::write(site.path("media").join(&path), &photo).unwrap();
            files.insert(path.clone());
        }
        entries.push((number + 1, path));
    }
    // Rows that lead out, or are no paths at all.
    let bad: Vec<String> = controls
        .iter()
        .map(|control| format!("n{control}n.png"))
        .chain(
            ["../images.json", "/etc/passwd", "a/../../images.json", "file:///etc/passwd", "", ".", "a//b", "a\\..\\b"]
                .map(String::from),
        )
        .collect();
    for (number, path) in bad.iter().enumerate() {
        entries.push((1_000_000 + number, path.clone()));
    }
    tools::database(&site.path("images.sqlite3"), &entries);
    let site = site.serve().with_nginx();
    let (mut gate, mut nginx) = (Client::gate(&site), Client::nginx(&site));
    let known = known_headers(&site, &mut gate, &mut nginx);
    let (mut asked, mut served) = (0, 0);
    let mut check = |response: &Response, about: &str| {
        asked += 1;
        assert!(!response.text().contains("root:"), "{about}");
        for (name, value) in &response.headers {
            assert!(known.contains(&name.to_lowercase()), "{about}: {name}: {value}");
            assert!(value.bytes().all(|byte| (0x20..0x7F).contains(&byte)), "{about}: {name}: {value:?}");
        }
        if response.status == 200 {
            served += 1;
            let value = response.header("content-disposition").unwrap();
            assert_one_filename(&value, about);
        }
        response.status
    };
    for (number, name) in names.iter().enumerate() {
        let by_id = native_url(
            KEYS,
            &Fields { subject: (number + 1).to_string(), spec: "width-2".into(), ..Fields::default() },
        );
        let path = format!("{name}.png");
        let is_there = files.contains(&path);
        let by_path = path_url(KEYS, &path, "width-2");
        for client in [&mut gate, &mut nginx] {
            let status = check(&client.get(by_id.as_bytes()), name);
            assert!(
                status == if is_there { 200 } else { status } && matches!(status, 200 | 400 | 410),
                "{status}: {name:?}"
            );
            let status = check(&client.get(by_path.as_bytes()), name);
            assert!(status == if is_there { 200 } else { status } && matches!(status, 200 | 404), "{status}: {name:?}");
        }
    }
    for (number, path) in bad.iter().enumerate() {
        let id = 1_000_000 + number;
        let url = native_url(KEYS, &Fields { subject: id.to_string(), spec: "width-2".into(), ..Fields::default() });
        let status = check(&gate.get(url.as_bytes()), path);
        assert!(matches!(status, 400 | 404 | 410), "{status}: {path:?}");
    }
    // Attachments' names, which are signed: as they come, and long ones.
    let mut downloads = names.clone();
    downloads.extend(["x".repeat(5_000), "é".repeat(1_000), "\"".repeat(2_000)]);
    for name in &downloads {
        let fields = Fields {
            subject: "media".into(),
            spec: "width-2".into(),
            path: "nén.png".into(),
            download: Some(name.clone()),
            ..Fields::default()
        };
        for client in [&mut gate, &mut nginx] {
            let status = check(&client.get(native_url(KEYS, &fields).as_bytes()), name);
            assert_eq!(status, 200, "{name:?}");
        }
    }
    for control in controls {
        let fields = Fields {
            subject: "media".into(),
            spec: "width-2".into(),
            path: "nén.png".into(),
            download: Some(format!("a{control}b")),
            ..Fields::default()
        };
        for client in [&mut gate, &mut nginx] {
            // Refused: either because it is not what was signed, or because it is malformed.
            let status = check(&client.get(native_url(KEYS, &fields).as_bytes()), control);
            assert!(matches!(status, 400 | 403), "{status}: {control:?}");
        }
    }
    row.passed(&format!(
        "{asked} requests with {} names and {} rows that are no paths; {served} served, each with the known headers and one \
         file name",
        downloads.len(),
        bad.len()
    ));
}

/// The names of headers that a hit, a miss and a refusal have at both doors.
fn known_headers(site: &Site, gate: &mut Client<'_>, nginx: &mut Client<'_>) -> BTreeSet<String> {
    let url = path_url(KEYS, "nén.png", "width-3");
    let mut known =
        BTreeSet::from(["vary", "retry-after", "allow", "connection", "x-sendimage-vary"].map(String::from));
    for target in [url.as_str(), url.as_str(), "/images/x/42/y/", "/nowhere"] {
        for response in [gate.get(target.as_bytes()), nginx.get(target.as_bytes())] {
            known.extend(response.headers.iter().map(|(name, _)| name.to_lowercase()));
        }
    }
    assert!(known.contains("x-accel-redirect") && known.contains("etag"), "{known:?}\n{}", site.log());
    known
}

/// `inline; filename="…"` and perhaps `filename*`: taken apart as RFC 6266 says, there is nothing else.
fn assert_one_filename(value: &str, about: &str) {
    let (kind, mut rest) = value.split_once("; filename=\"").unwrap_or_else(|| panic!("{about}: {value}"));
    assert!(matches!(kind, "inline" | "attachment"), "{about}: {value}");
    loop {
        let at = rest.find(['"', '\\']).unwrap_or_else(|| panic!("{about}: an open quote in {value}"));
        let is_escape = rest[at..].starts_with('\\');
        rest = &rest[at + if is_escape { 2 } else { 1 }..];
        if !is_escape {
            break;
        }
    }
    if !rest.is_empty() {
        let extended = rest.strip_prefix("; filename*=UTF-8''").unwrap_or_else(|| panic!("{about}: {value}"));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"%!#$&+-.^_`|~".contains(&byte);
        assert!(extended.bytes().all(plain), "{about}: {value}");
    }
    assert!(value.len() < 8_000, "{about}: {} bytes", value.len());
}
