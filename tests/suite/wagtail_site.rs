//! A copy of a Wagtail site's database and media folder, served through a real nginx with no change but the config.

use std::{collections::BTreeMap, str::FromStr};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    harness::{Response, Site},
    vectors,
};

/// The columns of Wagtail 8's `wagtailimages_image`, as its migrations make them on SQLite.
const TABLE: &str = "CREATE TABLE wagtailimages_image (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, title VARCHAR(255) NOT NULL, file VARCHAR(100) NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, created_at DATETIME NOT NULL,
    focal_point_x INTEGER UNSIGNED NULL, focal_point_y INTEGER UNSIGNED NULL,
    focal_point_width INTEGER UNSIGNED NULL, focal_point_height INTEGER UNSIGNED NULL,
    uploaded_by_user_id INTEGER NULL, file_size INTEGER UNSIGNED NULL, collection_id INTEGER NOT NULL DEFAULT 1,
    file_hash VARCHAR(40) NOT NULL DEFAULT '', description VARCHAR(255) NOT NULL DEFAULT '')";

/// The four views of the vectors, side by side. Their Wagtail has Pillow only, which takes an animation's first frame.
const ROUTES: &str = "svg = true
[signing]
wagtail_keys = [\"conformance-secret-key\"]
[catalogue]
kind = \"sqlite\"
url = \"sqlite://{dir}/db.sqlite3\"
source = \"media\"
[render]
animation = \"first-frame\"
[offload]
redirect_url = \"/media/renditions/\"
[routes.images]
prefix = \"/images/\"
[routes.redir]
prefix = \"/redir/\"
offload = \"redirect\"
[routes.keyed]
prefix = \"/keyed/\"
wagtail_keys = [\"a-separate-signing-key\"]
[routes.send]
prefix = \"/send/\"
offload = \"accel\"
";

fn wagtail_site() -> Site {
    let site = Site::new(ROUTES);
    let http = vectors::json("wagtail_http.json");
    let mut rows: BTreeMap<i64, String> = BTreeMap::new();
    for (id, name) in http["images"].as_object().unwrap() {
        let (id, name): (i64, &str) = (id.parse().unwrap(), name.as_str().unwrap());
        rows.insert(id, format!("original_images/{name}"));
        if name != "missing.jpg" {
            site.add(name, &format!("original_images/{name}"));
        }
    }
    std::fs::create_dir(site.path("media/original_images/adir.jpg")).unwrap();
    std::fs::write(site.path("media/original_images/empty.jpg"), "").unwrap();
    rows.insert(54, "original_images/adir.jpg".into());
    rows.insert(55, "../outside.jpg".into());
    rows.insert(56, "original_images/empty.jpg".into());
    // The signature vectors speak of these too.
    for id in [1000, 2_147_483_647, 9_007_199_254_740_993] {
        rows.insert(id, "original_images/photo_land.jpg".into());
    }
    rows.entry(42).or_insert_with(|| "original_images/photo_land.jpg".into());
    let path = site.path("db.sqlite3");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let options = SqliteConnectOptions::from_str(&format!("sqlite://{}", path.display())).unwrap();
        let mut database = SqliteConnection::connect_with(&options.create_if_missing(true)).await.unwrap();
        sqlx::query(TABLE).execute(&mut database).await.unwrap();
        for (id, file) in &rows {
            let insert = "INSERT INTO wagtailimages_image (id, title, file, width, height, created_at) \
                          VALUES (?, 'x', ?, 640, 427, '2026-01-01')";
            sqlx::query(AssertSqlSafe(insert)).bind(id).bind(file).execute(&mut database).await.unwrap();
        }
        database.close().await.unwrap();
    });
    site.with_nginx().serve()
}

/// A path as a browser puts it on the wire: what may not stand raw is escaped, a fragment stays at home.
fn on_the_wire(path: &str) -> String {
    path.split('#').next().unwrap().replace(' ', "%20")
}

/// Whether the proof was accepted: what follows it may still fail.
fn accepted(response: &Response) -> bool {
    match response.status {
        200 | 302 | 410 | 422 => true,
        // Ours speak of the spec only once the signature is good.
        400 => response.text().starts_with("Invalid filter spec"),
        _ => false,
    }
}

#[test]
fn every_signature_of_wagtail_gets_wagtails_verdict_through_nginx() {
    let site = wagtail_site();
    let vectors = vectors::json("wagtail_signatures.json");
    let rows = |name: &str| vectors[name].as_array().unwrap().clone();
    let mut wrong = Vec::new();
    let mut refused_by_design = Vec::new();
    let mut counted = 0;
    for row in [rows("positive"), rows("equivalent_encodings"), rows("negative")].concat() {
        // Rows of other keys belong to sites with other keys: the next test.
        if row["key"] != "conformance-secret-key" {
            continue;
        }
        counted += 1;
        let verdict = if row["driven"].is_null() { &row["expected"] } else { &row["driven"] };
        let expected = verdict["signature_ok"] == true;
        let path = row["url_path"].as_str().unwrap();
        let response = site.nginx("GET", &on_the_wire(path), "");
        if accepted(&response) != expected {
            // DESIGN 2: ids are ASCII digits, so a digit of another script is a source's name that nothing was signed for.
            if path.contains("/%D9%A7/") && response.status == 403 {
                continue;
            }
            let why = row["why"].as_str().unwrap_or(path);
            match expected && response.status == 400 {
                true => refused_by_design.push(path.to_owned()),
                false => wrong.push(format!("{why}: {path}: {}, {}", response.status, response.text())),
            }
        }
        let status = response.status;
        assert!(expected || matches!(status, 400 | 403 | 404), "{path}: {status}");
    }
    assert!(wrong.is_empty(), "{} of {counted} rows:\n{}", wrong.len(), wrong.join("\n"));
    // The other three rows of DESIGN 2: an empty id, bad UTF-8, a control character. An empty spec is refused by Wagtail
    // too, one step later.
    refused_by_design.retain(|path| !path.contains("/1//photo.jpg"));
    let mut expected = vec![
        "/images/Q7rKvuPgc7r-QCOCT2TMA2Ut7dI=//width-100/x.jpg",
        "/images/a7ERp2XeV-tho_LSmvPRL9xTXBk=/7/width-100/a%0Ab.jpg",
        "/images/iTqzoQtVdL4ChuqNm93uTr_Psnw=/42/fill-100x100/per%cent.jpg",
    ];
    refused_by_design.sort();
    expected.sort();
    assert_eq!(refused_by_design, expected);
}

#[test]
fn signatures_of_every_other_key_are_taken_by_a_site_with_that_key() {
    let site = wagtail_site();
    let vectors = vectors::json("wagtail_signatures.json");
    let bytes_of = |row: &Value| match row["key_hex"].as_str() {
        Some(hex) => (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect(),
        None => row["key"].as_str().unwrap().as_bytes().to_vec(),
    };
    let mut by_key: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
    for row in vectors["positive"].as_array().unwrap() {
        by_key.entry(bytes_of(row)).or_default().push(row["url_path"].as_str().unwrap().to_owned());
    }
    by_key.remove(&b"conformance-secret-key"[..]);
    // An empty key would accept what anybody signs: no site can have it here.
    assert_eq!(by_key.remove(&b""[..]).unwrap().len(), 2);
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), 17);
    let key_file =
        ROUTES.replacen("wagtail_keys = [\"conformance-secret-key\"]", "wagtail_key_files = [\"{dir}/key\"]", 1);
    for (round, (key, paths)) in by_key.into_iter().enumerate() {
        std::fs::write(site.path("key"), key).unwrap();
        site.configure(&key_file);
        site.signal(rustix::process::Signal::HUP);
        let applied = || site.log().matches("is applied").count() > round;
        crate::harness::wait_for(std::time::Duration::from_secs(5), applied)
            .unwrap_or_else(|()| panic!("{}", site.log()));
        for path in paths {
            let response = site.nginx("GET", &on_the_wire(&path), "");
            assert!(accepted(&response), "{path}: {}", response.status);
        }
    }
}

/// Rows that are answered differently on purpose: the name's beginning, Wagtail's status, ours, why.
const BETTER: &[(&str, u64, u16, &str)] = &[
    ("OPTIONS", 200, 204, "no body is announced"),
    ("serve tiff (no output format)", 500, 200, "no browser shows a TIFF: it becomes a PNG"),
    ("sendfile tiff (no output format)", 500, 200, "no browser shows a TIFF: it becomes a PNG"),
    ("redirect tiff (no output format)", 500, 302, "the same"),
    ("spec: fill zero height", 500, 400, "a spec that can mean nothing is a bad spec"),
    ("spec: scale nan", 500, 400, "a spec that can mean nothing is a bad spec"),
    ("spec: scale inf", 500, 400, "a spec that can mean nothing is a bad spec"),
    ("spec: very long chain", 400, 200, "Wagtail's file name for it is too long for its column; ours is a digest"),
    ("spec: name limit exceeded", 400, 200, "Wagtail's file name for it is too long for its column; ours is a digest"),
    ("source is not an image", 500, 422, "the image's fault, not the server's"),
    ("source is truncated", 500, 422, "the image's fault, not the server's"),
    ("source is empty", 500, 422, "the image's fault, not the server's"),
    ("id empty, signed as empty", 500, 400, "DESIGN 2: an empty segment"),
    ("id of 5000 digits", 500, 404, "no such image"),
    ("arabic-indic id", 200, 403, "DESIGN 2: an id is ASCII digits"),
    ("no trailing slash, no filename", 301, 404, "the site's middleware adds the slash; the view alone says 404"),
    ("conditional: If-None-Match *", 200, 304, "nginx answers conditions; Wagtail's view does not"),
    ("range", 200, 206, "nginx serves ranges; Wagtail's view does not"),
    ("rendition file deleted (images)", 500, 200, "rendered again"),
    ("rendition file deleted (send)", 404, 200, "rendered again"),
    ("svg with format-png", 400, 200, "drawn"),
];

/// Formats that this build does not read or write: rows about them are named by these words.
const LATER: &[&str] = if cfg!(feature = "heic") { &["-> heic"] } else { &["heic"] };

#[test]
fn every_row_about_the_serve_view_has_wagtails_status_or_a_better_one() {
    let site = wagtail_site();
    let vectors = vectors::json("wagtail_http.json");
    let mut wrong = Vec::new();
    let (mut same, mut better, mut later) = (0, 0, 0);
    for row in vectors["requests"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        // Not about the view: Django's own settings for its views and stores, and rows whose database row is edited.
        if ["setting:", "sendfile settings", "sendfile backend", "MEDIA_URL"]
            .iter()
            .any(|other| name.starts_with(other))
        {
            continue;
        }
        if name.starts_with("source missing") {
            continue; // has a test of its own below
        }
        let request = &row["request"];
        let path = on_the_wire(request["path"].as_str().unwrap());
        let headers: String = request["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| format!("{name}: {}\r\n", value.as_str().unwrap()))
            .collect();
        let wagtail = row["status"].as_u64().unwrap();
        let response = site.nginx(request["method"].as_str().unwrap(), &path, &headers);
        let status = u64::from(response.status);
        let bare = name.strip_prefix("sendfile spec").map_or(name.to_owned(), |rest| format!("spec{rest}"));
        let listed = BETTER.iter().find(|(prefix, theirs, _, _)| bare.starts_with(prefix) && *theirs == wagtail);
        if LATER.iter().any(|word| name.contains(word)) {
            assert!(matches!(status, 400 | 422), "{name}: {status}");
            later += 1;
        } else if listed.is_some_and(|(_, _, ours, _)| u64::from(*ours) == status) {
            better += 1;
        } else if status == wagtail || (name.starts_with("sendfile stored name") && wagtail == 500 && status == 200) {
            same += 1;
            check_body(row, &response, name, &mut wrong);
        } else {
            wrong.push(format!("{name}: {path}: Wagtail {wagtail}, ours {status}: {}", response.text()));
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    println!("{same} the same, {better} better, {later} about formats that this version does not have");
    assert_eq!((same, better, later), if cfg!(feature = "heic") { (138, 27, 3) } else { (135, 27, 6) });
}

/// A served image has Wagtail's type; caching, CSP and nosniff are there as in the view's answer.
fn check_body(row: &Value, response: &Response, name: &str, wrong: &mut Vec<String>) {
    let is_image = row["headers"]["Content-Type"].as_str().is_some_and(|kind| kind.starts_with("image/"));
    if response.status != 200 || !is_image || name.contains("stored name") {
        return;
    }
    let mut expect = |header: &str, test: &dyn Fn(&str) -> bool| {
        let value = response.header(header).unwrap_or_default();
        if !test(&value) {
            wrong.push(format!("{name}: {header}: {value:?}"));
        }
    };
    // Wagtail's view and Django's table of types have two names for the icon's.
    let kind = row["headers"]["Content-Type"].as_str().unwrap().replace("vnd.microsoft.icon", "x-icon");
    expect("Content-Type", &|value| value == kind);
    expect("Cache-Control", &|value| value == "max-age=3600, public");
    expect("X-Content-Type-Options", &|value| value == "nosniff");
    expect("Content-Security-Policy", &|value| value.starts_with("default-src 'none'"));
    expect("Content-Disposition", &|value| value.starts_with("inline; filename="));
    expect("X-Accel-Redirect", &str::is_empty);
    expect("X-Sendimage-Cache-Control", &str::is_empty);
    if response.body.is_empty() && row["request"]["method"] != "HEAD" {
        wrong.push(format!("{name}: no bytes"));
    }
}

#[test]
fn renditions_outlive_their_original_and_a_missing_one_is_gone() {
    let site = wagtail_site();
    let kept = "/images/1lQau5zWXj_E4y_8yHBxcIw40jU=/2/width-62/x.jpg";
    let never = "/images/lFVuWv64W_eiioVsBbEQy5yaM_E=/2/width-63/x.jpg";
    let first = site.nginx("GET", kept, "");
    assert_eq!(first.status, 200);
    std::fs::remove_file(site.path("media/original_images/photo_port.jpg")).unwrap();
    assert_eq!(site.nginx("GET", kept, "").body, first.body, "as in Wagtail");
    let gone = site.nginx("GET", never, "");
    assert_eq!((gone.status, gone.text().trim()), (410, "Source image file not found"));
    assert!(gone.header("cache-control").unwrap().starts_with("max-age=5"));
}

#[test]
fn a_replaced_original_is_seen_at_once() {
    let site = wagtail_site();
    let url = "/images/1lQau5zWXj_E4y_8yHBxcIw40jU=/2/width-62/x.jpg";
    let before = site.nginx("GET", url, "");
    site.add("photo_land.jpg", "original_images/photo_port.jpg");
    let after = site.nginx("GET", url, "");
    assert_eq!((before.status, after.status), (200, 200));
    assert_ne!(before.body, after.body);
    assert_ne!(before.header("etag"), after.header("etag"));
}
