//! One behaviour of every catalogue: what rows say is what is served, and what they cannot say is refused.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr as _,
    time::{Duration, Instant},
};

use sendimage::{
    catalogue::{Catalogue, Manifest, MySql, Postgres, Sources, Sqlite},
    config::{self, CatalogueKind},
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    databases::{Kind, PASSWORD, Server},
    harness::{Site, wait_for},
    stub::{Stub, answer},
};

const SOURCES: &str = "[sources.other]\nkind = \"fs\"\nroot = \"{dir}/media/other\"\n";

/// What rows are kept in.
enum Backend {
    Manifest,
    Sqlite,
    Server(Server),
}

impl Backend {
    fn of(kind: Kind) -> Option<Self> {
        if !kind.is_installed() {
            eprintln!("SKIPPED: {kind:?} is not installed");
            return None;
        }
        Some(Self::Server(Server::new(kind)))
    }

    /// The section, but for its query.
    fn section(&self) -> String {
        let (kind, address) = match self {
            Self::Manifest => ("manifest", "file = \"{dir}/images.json\"".to_owned()),
            Self::Sqlite => ("sqlite", "url = \"sqlite://{dir}/db.sqlite3\"".to_owned()),
            Self::Server(server) if server.kind == Kind::Postgres => {
                ("postgres", format!("url = \"{}\"", server.url()))
            }
            Self::Server(server) => ("mysql", format!("url = \"{}\"", server.url())),
        };
        format!("{SOURCES}[catalogue]\nkind = \"{kind}\"\n{address}\nsource = \"media\"\ncache_seconds = 0.2\n")
    }

    fn parameter(&self) -> &'static str {
        match self {
            Self::Server(server) if server.kind == Kind::Postgres => "$1",
            _ => "?",
        }
    }

    fn execute(&self, folder: &Path, statements: &[&str]) {
        match self {
            Self::Manifest => unreachable!("it has no statements"),
            Self::Server(server) => server.execute(statements),
            Self::Sqlite => {
                let url = format!("sqlite://{}", folder.join("db.sqlite3").display());
                tokio::runtime::Runtime::new().unwrap().block_on(async {
                    let options = SqliteConnectOptions::from_str(&url).unwrap().create_if_missing(true);
                    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
                    for statement in statements {
                        database.execute(AssertSqlSafe(*statement)).await.unwrap();
                    }
                    database.close().await.unwrap();
                });
            }
        }
    }
}

/// A row as a test writes it: column and SQL literal.
type Columns = BTreeMap<&'static str, String>;

/// A backend with Wagtail's table, written row by row.
struct Table<'a> {
    backend: &'a Backend,
    folder: PathBuf,
    rows: BTreeMap<u64, Columns>,
}

const COLUMNS: [&str; 6] =
    ["file", "file_hash", "focal_point_x", "focal_point_y", "focal_point_width", "focal_point_height"];

impl<'a> Table<'a> {
    fn new(backend: &'a Backend, site: &Site) -> Self {
        let folder = site.folder.path().to_owned();
        if !matches!(backend, Backend::Manifest) {
            let text = |length| format!("VARCHAR({length}) NOT NULL");
            let columns = format!(
                "id INTEGER PRIMARY KEY, title {}, file {}, file_hash {}, focal_point_x INTEGER, focal_point_y INTEGER, \
                 focal_point_width INTEGER, focal_point_height INTEGER",
                text(255),
                text(200),
                text(40)
            );
            backend.execute(&folder, &[&format!("CREATE TABLE wagtailimages_image ({columns})")]);
        }
        let table = Self { backend, folder, rows: BTreeMap::new() };
        table.write();
        table
    }

    fn put(&mut self, id: u64, file: &str, file_hash: &str, focal_point: Option<[i32; 4]>) {
        let mut row = Columns::from([("file", format!("'{file}'")), ("file_hash", format!("'{file_hash}'"))]);
        for (column, number) in COLUMNS[2..].iter().zip(focal_point.into_iter().flatten()) {
            row.insert(column, number.to_string());
        }
        let value = |column: &&str| row.get(*column).cloned().unwrap_or_else(|| "NULL".into());
        let values: Vec<String> = COLUMNS.iter().map(value).collect();
        let statement = format!(
            "INSERT INTO wagtailimages_image (id, title, {}) VALUES ({id}, 't', {})",
            COLUMNS.join(", "),
            values.join(", ")
        );
        self.remove(id);
        if !matches!(self.backend, Backend::Manifest) {
            self.backend.execute(&self.folder, &[&statement]);
        }
        self.rows.insert(id, row);
        self.write();
    }

    fn remove(&mut self, id: u64) {
        self.rows.remove(&id);
        if !matches!(self.backend, Backend::Manifest) {
            self.backend.execute(&self.folder, &[&format!("DELETE FROM wagtailimages_image WHERE id = {id}")]);
        }
        self.write();
    }

    /// A manifest is written whole.
    fn write(&self) {
        if !matches!(self.backend, Backend::Manifest) {
            return;
        }
        let object = |(id, row): (&u64, &Columns)| {
            let fields: Vec<String> =
                row.iter().map(|(column, value)| format!("\"{column}\": {}", value.replace('\'', "\""))).collect();
            format!("{{\"id\": {id}, {}}}", fields.join(", "))
        };
        let objects: Vec<String> = self.rows.iter().map(object).collect();
        std::fs::write(self.folder.join("new.json"), format!("[{}]", objects.join(", "))).unwrap();
        std::fs::rename(self.folder.join("new.json"), self.folder.join("images.json")).unwrap();
    }
}

/// Status of an image's URL, and the rendition that is handed over.
fn ask(site: &Site, id: &str, spec: &str) -> (u16, String) {
    let answer = site.gate("GET", &site.sign(&[id, spec]), "");
    (answer.status, answer.header("x-accel-redirect").unwrap_or_default())
}

fn statuses(site: &Site, ids: &[u64]) -> Vec<u16> {
    ids.iter().map(|id| ask(site, &id.to_string(), "width-40").0).collect()
}

/// Longer than a row is remembered.
fn forget() {
    std::thread::sleep(Duration::from_millis(350));
}

fn furnish(site: &Site) {
    site.add("photo_land.jpg", "a.jpg");
    site.add("rgba.png", "ünï c.png");
    site.add("rgba.png", "other/b.png");
}

/// What every catalogue does with Wagtail's columns.
fn behaves(backend: &Backend) {
    let mut site = Site::new(&backend.section());
    furnish(&site);
    let mut table = Table::new(backend, &site);
    table.put(1, "a.jpg", "one", None);
    table.put(2, "ünï c.png", "", Some([10, 10, 5, 5]));
    site.start();

    // Known, unknown, and beyond what any column holds.
    assert_eq!(statuses(&site, &[1, 2, 3]), [200, 200, 404], "{}", site.log());
    assert_eq!(statuses(&site, &[0, 1 << 31, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX]), [404; 6], "{}", site.log());
    assert_eq!(ask(&site, "007", "width-40").0, 404);
    assert_eq!(ask(&site, "001", "width-40").0, 200);

    // A changed row is seen, and so is one that is new or gone.
    let before = ask(&site, "1", "width-40").1;
    assert!(before.ends_with(".jpg"), "{before}");
    table.put(1, "ünï c.png", "one", None);
    table.put(3, "a.jpg", "", None);
    let changed = Instant::now();
    wait_for(Duration::from_secs(2), || ask(&site, "1", "width-40").1.ends_with(".png")).expect("the new row counts");
    assert!(changed.elapsed() < Duration::from_millis(1_500), "{:?}", changed.elapsed());
    forget();
    assert_eq!(statuses(&site, &[3]), [200]);
    table.remove(3);
    forget();
    assert_eq!(statuses(&site, &[3]), [404]);

    // Focal point and file hash decide the name.
    table.put(1, "a.jpg", "one", None);
    forget();
    let plain = ask(&site, "1", "fill-20x40-c100").1;
    table.put(1, "a.jpg", "one", Some([5, 5, 4, 4]));
    forget();
    let focal = ask(&site, "1", "fill-20x40-c100").1;
    assert_ne!(plain, focal);
    let bytes = |path: &str| std::fs::read(site.path(&path.replacen("/_renditions", "renditions", 1))).unwrap();
    assert!(bytes(&plain) != bytes(&focal), "another part of the picture");
    table.put(1, "a.jpg", "two", Some([5, 5, 4, 4]));
    forget();
    assert_ne!(ask(&site, "1", "fill-20x40-c100").1, focal);
    // Three numbers are no focal point.
    if !matches!(backend, Backend::Manifest) {
        backend.execute(
            site.folder.path(),
            &["UPDATE wagtailimages_image SET focal_point_y = NULL, file_hash = 'one' WHERE id = 1"],
        );
        forget();
        assert_eq!(ask(&site, "1", "fill-20x40-c100").1, plain);
    }

    // Editors find images by a part of their names, as it is written.
    assert_eq!(search(&site, ""), [2, 1]);
    assert_eq!(search(&site, "A.JPG"), [1]);
    assert_eq!(search(&site, "ünï"), [2]);
    for nothing in ["%", "_", "!", "'", "\\", "x' OR '1' = '1"] {
        assert_eq!(search(&site, nothing), [0; 0], "{nothing}");
    }

    // Rows are not trusted. A manifest with such a row is refused whole: what it said before stays.
    for (id, file) in [
        (11, "../secret.jpg"),
        (12, "/etc/passwd"),
        (13, "a//b.jpg"),
        (14, "https://images.example/a.jpg"),
        (15, "file:///etc/passwd"),
        (16, ""),
    ] {
        table.put(id, file, "", None);
        let expected = if matches!(backend, Backend::Manifest) { 404 } else { 400 };
        assert_eq!(statuses(&site, &[id]), [expected], "{file}\n{}", site.log());
        table.remove(id);
    }
    forget();
    assert_eq!(statuses(&site, &[1]), [200]);
    assert_eq!(site.metric("sendimage_catalogue_up"), 1.0);
    assert!(!site.log().contains(PASSWORD));

    // All rows: more than a page of them, none twice, whatever came before and after.
    for id in 100..103 {
        table.put(id, "other/b.png", "", None);
    }
    if !matches!(backend, Backend::Manifest) {
        let rows: Vec<String> = (1000..2300).map(|id| format!("({id}, 't', 'gone.jpg', '')")).collect();
        let values = rows.join(", ");
        let insert = format!("INSERT INTO wagtailimages_image (id, title, file, file_hash) VALUES {values}");
        backend.execute(site.folder.path(), &[&insert]);
    }
    let walked = site.run(&["warm", "--all", "--json", "--alone", "--spec", "width-3"]);
    let walked: serde_json::Value = serde_json::from_slice(&walked.stdout).unwrap();
    let gone = if matches!(backend, Backend::Manifest) { 0 } else { 1300 };
    let there = walked["created"].as_i64().unwrap() + walked["present"].as_i64().unwrap();
    assert_eq!((walked["images"].as_i64(), there), (Some(5 + gone), 5), "{walked}");
    assert_eq!(walked["failed"]["gone"].as_i64().unwrap_or(0), gone, "{walked}");
    for id in 100..103 {
        table.remove(id);
    }

    let check = site.run(&["check"]);
    let says = String::from_utf8_lossy(&check.stdout).into_owned();
    let name = match backend {
        Backend::Manifest => "manifest with 2 images",
        Backend::Sqlite => "SQLite 3.",
        Backend::Server(server) if server.kind == Kind::Postgres => "PostgreSQL ",
        Backend::Server(_) => "MariaDB ",
    };
    assert!(says.lines().any(|line| line.starts_with("ok") && line.contains(name)), "{says}");
    assert!(!says.contains(PASSWORD));
}

/// The ids that a search finds, newest first.
fn search(site: &Site, text: &str) -> Vec<u64> {
    let config = config::load(Some(&site.config())).unwrap().config;
    let (section, sources) = (&config.catalogue, Sources::new(&config));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let catalogue: Box<dyn Catalogue> = match section.kind {
            CatalogueKind::Manifest => Box::new(Manifest::open(section.file.as_deref().unwrap(), sources).unwrap()),
            CatalogueKind::Sqlite => Box::new(Sqlite::new(section, sources).unwrap()),
            CatalogueKind::Postgres => Box::new(Postgres::new(section, sources).unwrap()),
            CatalogueKind::Mysql => Box::new(MySql::new(section, sources).unwrap()),
            CatalogueKind::None => unreachable!("each has one"),
        };
        let found = catalogue.search(text).await.unwrap().unwrap();
        found.iter().map(|listed| listed.id.0).collect()
    })
}

/// Rows whose files are whole URLs, in a source that has a list of what it takes.
fn names_urls(backend: &Backend) {
    let photo = std::fs::read(crate::vectors::folder().join("images/photo_land.jpg")).unwrap();
    let web = Stub::start(move |asked, _, stream| match asked.parts()[..] {
        ["pictures" | "private", ..] => answer(stream, "200 OK", "Content-Type: image/jpeg\r\n", &photo),
        _ => answer(stream, "404 Not Found", "", b""),
    });
    let origin = format!("http://{}", web.address);
    let section = backend.section().replace("source = \"media\"", "source = \"web\"");
    let mut site = Site::new(&format!(
        "{section}[sources.web]\nkind = \"http\"\n[sources.web.http]\nallow = [\"{origin}/pictures/\"]\n\
         allow_addresses = [\"127.0.0.1\"]\n"
    ));
    if !matches!(backend, Backend::Manifest) {
        backend.execute(site.folder.path(), &["DROP TABLE IF EXISTS wagtailimages_image"]);
    }
    let mut table = Table::new(backend, &site);
    table.put(1, &format!("{origin}/pictures/a%20b.jpg?v=2#top"), "", None);
    table.put(3, &format!("{origin}/private/a.jpg"), "", None);
    table.put(4, "pictures/a.jpg", "", None);
    table.put(5, &format!("{origin}/pictures/c.jpg"), "", None);
    site.start();
    assert_eq!(statuses(&site, &[1, 3, 4, 5]), [200, 502, 502, 200], "{}", site.log());
    assert!(web.count("/pictures/a%20b.jpg?v=2") > 0, "it is asked for as it is spelt");
    assert!(web.asked().iter().all(|asked| asked.target.starts_with("/pictures/")));
    for (id, file) in [
        (11, origin.replace("://", "://anna:secret@") + "/pictures/a.jpg"),
        (12, format!("{origin}/pictures/../private/a.jpg")),
        (13, format!("{origin}/pictures/%2e%2e/private/a.jpg")),
        (14, "file:///pictures/a.jpg".to_owned()),
    ] {
        table.put(id, &file, "", None);
        let expected = if matches!(backend, Backend::Manifest) { 404 } else { 400 };
        assert_eq!(statuses(&site, &[id]), [expected], "{file}\n{}", site.log());
        table.remove(id);
    }
}

#[test]
fn manifest() {
    behaves(&Backend::Manifest);
    names_urls(&Backend::Manifest);
}

#[test]
fn manifest_rows_name_their_source() {
    let site = Site::new(&Backend::Manifest.section());
    furnish(&site);
    let csv = "id,file,source\n1,a.jpg,\n2,b.png,other\n";
    std::fs::write(site.path("images.json"), csv).unwrap();
    let site = site.serve();
    assert_eq!(statuses(&site, &[1, 2, 3]), [200, 200, 404], "{}", site.log());
    std::fs::write(site.path("images.json"), format!("{csv}3,a.jpg,nowhere\n")).unwrap();
    let check = String::from_utf8_lossy(&site.run(&["check"]).stderr).into_owned();
    assert!(check.contains("there is no [sources.nowhere]"), "{check}");
}

/// A hash that the catalogue gives names other renditions, and does not make another file of it.
#[test]
fn a_file_is_one_file_by_id_and_by_path() {
    let mut site = Site::new(&Backend::Manifest.section());
    furnish(&site);
    site.add("photo_port.jpg", "b.jpg");
    let csv = "id,file,file_hash,focal_point_x,focal_point_y,focal_point_width,focal_point_height\n\
               1,a.jpg,abc,10,20,30,40\n2,b.jpg,def,,,,\n";
    std::fs::write(site.path("images.json"), csv).unwrap();
    site.start();
    let asked =
        [("1", "fill-40x40"), ("media/a.jpg", "width-30"), ("1", "width-31"), ("media/a.jpg", "fill-40x40|smart")];
    let mut served = Vec::new();
    for (number, (image, spec)) in asked.into_iter().enumerate() {
        served.push(ask(&site, image, spec));
        let record = site.stored()[0].with_file_name(".source.json");
        let record = std::fs::read_to_string(site.path("renditions").join(record)).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        assert_eq!(record["version"]["file_hash"], "abc", "{number}: {record}");
        assert_eq!(record["focal_points"].as_array().map(Vec::len), Some(1), "{number}: {record}");
    }
    assert!(served.iter().all(|(status, _)| *status == 200), "{served:?}\n{}", site.log());
    // By its path alone: that is all that is known of it when it is gone.
    let other = ask(&site, "media/b.jpg", "width-30");
    let again = |site: &Site| asked.map(|(image, spec)| ask(site, image, spec));
    for name in ["a.jpg", "b.jpg"] {
        std::fs::remove_file(site.path("media").join(name)).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(again(&site).to_vec(), served, "{}", site.log());
        assert_eq!(
            [ask(&site, "2", "width-30"), ask(&site, "media/b.jpg", "width-30")],
            [other.clone(), other.clone()]
        );
        assert_eq!(ask(&site, "2", "width-33").0, 410);
        site.signal(rustix::process::Signal::TERM);
        site.wait();
        site.start();
    }
}

/// Whoever purges an image has had its row in mind, whatever became of it.
#[test]
fn a_purged_row_is_not_remembered() {
    let ops = format!("[ops]\ntoken = \"{}\"\n", crate::harness::OPS_TOKEN);
    let section = Backend::Sqlite.section().replace("cache_seconds = 0.2", "cache_seconds = 3600");
    let mut site = Site::new(&format!("{section}{ops}"));
    furnish(&site);
    Backend::Sqlite.execute(
        site.folder.path(),
        &[
            "CREATE TABLE wagtailimages_image (id INTEGER PRIMARY KEY, title TEXT, file TEXT, file_hash TEXT, \
         focal_point_x INTEGER, focal_point_y INTEGER, focal_point_width INTEGER, focal_point_height INTEGER)",
            "INSERT INTO wagtailimages_image (id, title, file, file_hash) VALUES (1, '', 'a.jpg', '')",
        ],
    );
    site.start();
    assert_eq!(statuses(&site, &[1]), [200], "{}", site.log());
    // The purge itself cannot use it, so it learns nothing that would count instead of what is remembered.
    Backend::Sqlite.execute(site.folder.path(), &["UPDATE wagtailimages_image SET file = '../secret.jpg'"]);
    assert_eq!(statuses(&site, &[1]), [200]);
    assert_eq!(site.called("/purge", serde_json::json!({"refs": ["1"]}))["files"], 1);
    assert_eq!(statuses(&site, &[1]), [400], "{}", site.log());
}

#[test]
fn sqlite() {
    behaves(&Backend::Sqlite);
    names_urls(&Backend::Sqlite);
    own_query(&Backend::Sqlite, &["INTEGER", "SMALLINT", "TEXT"], &[("INTEGER", 200), ("REAL", 200), ("NUMERIC", 200)]);
}

#[test]
fn postgres() {
    let Some(backend) = Backend::of(Kind::Postgres) else { return };
    behaves(&backend);
    let numbers = [
        ("SMALLINT", 200),
        ("INTEGER", 200),
        ("BIGINT", 200),
        ("REAL", 200),
        ("DOUBLE PRECISION", 200),
        ("NUMERIC", 400),
        ("TEXT", 400),
    ];
    own_query(&backend, &["SMALLINT", "INTEGER", "BIGINT", "NUMERIC(20)"], &numbers);
    reads_only(
        &backend,
        "CREATE FUNCTION grow(id BIGINT) RETURNS TEXT LANGUAGE sql AS $$ INSERT INTO written VALUES (1); \
                          SELECT 'a.jpg' $$",
        "SELECT grow($1) AS file",
    );
    migrated(&backend);
    private_file(&backend);
    names_urls(&backend);
}

#[test]
fn mariadb() {
    let Some(backend) = Backend::of(Kind::MariaDb) else { return };
    behaves(&backend);
    let numbers = [
        ("TINYINT", 200),
        ("SMALLINT UNSIGNED", 200),
        ("MEDIUMINT", 200),
        ("INT UNSIGNED", 200),
        ("BIGINT", 200),
        ("FLOAT", 200),
        ("DOUBLE", 200),
        ("DECIMAL(10,3)", 200),
        ("VARCHAR(20)", 400),
    ];
    own_query(&backend, &["TINYINT", "INT", "INT UNSIGNED", "BIGINT", "BIGINT UNSIGNED", "DECIMAL(20)"], &numbers);
    let Backend::Server(server) = &backend else { unreachable!() };
    server.execute(&["INSERT INTO pictures_bigint_unsigned VALUES (18446744073709551615, 'a.jpg', NULL, 1)"]);
    let site = served(&backend, "pictures_bigint_unsigned");
    assert_eq!(statuses(&site, &[u64::MAX, 1 << 63]), [200, 404], "{}", site.log());
    reads_only(
        &backend,
        "CREATE FUNCTION grow(id BIGINT) RETURNS TEXT BEGIN INSERT INTO written VALUES (1); \
                          RETURN 'a.jpg'; END",
        "SELECT grow(?) AS file",
    );
    migrated(&backend);
    private_file(&backend);
    names_urls(&backend);
}

/// A site whose rows are in a table of its own.
fn served(backend: &Backend, table: &str) -> Site {
    let query = own(backend, table);
    let mut site =
        Site::new(&backend.section().replace("cache_seconds", &format!("query = \"{query}\"\ncache_seconds")));
    furnish(&site);
    site.start();
    site
}

fn own(backend: &Backend, table: &str) -> String {
    format!(
        "SELECT name AS file, shelf AS source, x AS focal_point_x, x AS focal_point_y, x AS focal_point_width, \
         x AS focal_point_height FROM {table} WHERE pk = {}",
        backend.parameter()
    )
}

/// A query of the site's own: its columns by name, of whatever type they are.
fn own_query(backend: &Backend, ids: &[&str], numbers: &[(&str, u16)]) {
    for id in ids {
        let table = format!("pictures_{}", id.to_lowercase().replace([' ', '(', ')'], "_").trim_end_matches('_'));
        let query = own(backend, &table);
        let config = backend.section().replace("cache_seconds", &format!("query = \"{query}\"\ncache_seconds"));
        let mut site =
            Site::new(&format!("{config}[signing]\nkeys = [{{ id = \"all\", secret = \"0123456789abcdef\" }}]\n"));
        furnish(&site);
        backend.execute(site.folder.path(),
            &[
                &format!("CREATE TABLE {table} (pk {id}, name VARCHAR(100), shelf VARCHAR(100), x INTEGER)"),
                &format!(
                    "INSERT INTO {table} VALUES (1, 'a.jpg', NULL, 1), (2, 'b.png', 'other', NULL), (3, 'a.jpg', '', 1), \
                     (4, 'a.jpg', 'nowhere', 1), (5, NULL, NULL, 1), (6, 'https://images.example/a.jpg', 'other', 1), \
                     (7, 'a.jpg', 'other', 1)"
                ),
            ],
        );
        site.start();
        let expected = [200, 200, 200, 400, 400, 400, 410, 404, 404];
        assert_eq!(statuses(&site, &[1, 2, 3, 4, 5, 6, 7, 8, u64::MAX]), expected, "{id}\n{}", site.log());

        // A key is for the source that the row is in.
        site.configure(&format!(
            "{config}[signing]\nkeys = [{{ id = \"some\", secret = \"0123456789abcdef\", sources = [\"media\"] }}]\n"
        ));
        site.signal(rustix::process::Signal::HUP);
        let url = |id: &str| site.sign(&[id, "width-41"]);
        wait_for(Duration::from_secs(5), || site.gate("GET", &url("2"), "").status == 403).expect("out of scope");
        assert_eq!(site.gate("GET", &url("1"), "").status, 200);
    }
    for (number, (column, status)) in numbers.iter().enumerate() {
        let table = format!("numbers_{number}");
        let query = own(backend, &table);
        let mut site =
            Site::new(&backend.section().replace("cache_seconds", &format!("query = \"{query}\"\ncache_seconds")));
        furnish(&site);
        backend.execute(
            site.folder.path(),
            &[
                &format!("CREATE TABLE {table} (pk INTEGER, name VARCHAR(100), shelf VARCHAR(100), x {column})"),
                &format!("INSERT INTO {table} VALUES (1, 'a.jpg', NULL, '7'), (2, 'a.jpg', NULL, NULL)"),
            ],
        );
        site.start();
        assert_eq!(statuses(&site, &[1]), [*status], "{column}\n{}", site.log());
        if *status == 200 {
            assert_eq!(statuses(&site, &[2]), [200], "{column}\n{}", site.log());
            let names = ["1", "2"].map(|id| ask(&site, id, "fill-20x40-c100").1);
            assert_ne!(names[0], names[1], "the focal point counts: {column}");
        }
    }
}

/// A query that would write does not, although its user may.
fn reads_only(backend: &Backend, function: &str, query: &str) {
    let mut site =
        Site::new(&backend.section().replace("cache_seconds", &format!("query = \"{query}\"\ncache_seconds")));
    furnish(&site);
    let grants: &[&str] = match backend {
        Backend::Server(server) if server.kind == Kind::Postgres => &["GRANT ALL ON written TO site"],
        _ => &[],
    };
    backend.execute(site.folder.path(), &["CREATE TABLE written (id INTEGER)"]);
    backend.execute(site.folder.path(), grants);
    backend.execute(site.folder.path(), &[function]);
    site.start();
    assert_eq!(statuses(&site, &[1]), [503], "{}", site.log());
    wait_for(Duration::from_secs(5), || site.log().to_lowercase().contains("read")).expect("the log says why");
}

/// A column's type changes under sessions that have the query prepared.
fn migrated(backend: &Backend) {
    let Backend::Server(server) = backend else { return };
    server.execute(&[
        "CREATE TABLE moving (pk INTEGER, name VARCHAR(100), shelf VARCHAR(100), x INTEGER)",
        "INSERT INTO moving VALUES (1, 'a.jpg', NULL, 7), (2, 'a.jpg', NULL, 7), (3, 'a.jpg', NULL, 7)",
    ]);
    let site = served(backend, "moving");
    assert_eq!(statuses(&site, &[1]), [200]);
    match server.kind {
        Kind::Postgres => server.execute(&["ALTER TABLE moving ALTER COLUMN x TYPE DOUBLE PRECISION"]),
        Kind::MariaDb => server.execute(&["ALTER TABLE moving MODIFY x DOUBLE"]),
    }
    assert_eq!(statuses(&site, &[2, 3]), [200, 200], "{}", site.log());
}

/// The URL in a file of its own, with and without faults. None shows the password.
fn private_file(backend: &Backend) {
    let Backend::Server(server) = backend else { return };
    let url = format!("url = \"{}\"", server.url());
    let mut site = Site::new(&backend.section().replace(&url, "url_file = \"url\""));
    furnish(&site);
    std::fs::write(site.path("url"), format!("{}\n", server.url())).unwrap();
    site.start();
    assert_eq!(statuses(&site, &[2]), [200], "{}", site.log());

    // A unix socket does as well.
    std::fs::write(site.path("url"), server.socket_url()).unwrap();
    let check = String::from_utf8_lossy(&site.run(&["check"]).stdout).into_owned();
    assert!(check.contains("ok    catalogue "), "{check}");
    for (bad, needle) in [
        (server.url() + "?sslmod=require", "sslmod"),
        (server.url().replacen("://", "x://", 1), "begins with"),
        (server.url().replacen("@127.0.0.1:", "@127.0.0.1:x", 1), "port"),
    ] {
        std::fs::write(site.path("url"), bad).unwrap();
        let output = site.run(&["check"]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains(needle) && !said.contains(PASSWORD), "{said}");
    }
    // A wrong password is said, not shown.
    std::fs::write(site.path("url"), server.url().replace(PASSWORD, "another-canary")).unwrap();
    let output = site.run(&["check"]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("FAIL  catalogue") && !said.contains("another-canary"), "{said}");
}

/// `LISTEN`: a changed row is seen at once, however long rows are remembered.
#[test]
fn postgres_tells_of_changed_rows() {
    let Some(backend) = Backend::of(Kind::Postgres) else { return };
    let Backend::Server(mut server) = backend else { unreachable!() };
    let config = format!(
        "{SOURCES}[catalogue]\nkind = \"postgres\"\nurl = \"{}\"\nsource = \"media\"\ncache_seconds = 600\nlisten = \"images\"\n",
        server.url()
    );
    let mut site = Site::new(&config);
    furnish(&site);
    server.execute(&[
        "CREATE TABLE wagtailimages_image (id SERIAL PRIMARY KEY, file VARCHAR(100) NOT NULL, file_hash VARCHAR(40) NOT NULL, \
         focal_point_x INTEGER, focal_point_y INTEGER, focal_point_width INTEGER, focal_point_height INTEGER)",
        "INSERT INTO wagtailimages_image (file, file_hash) SELECT 'a.jpg', '' FROM generate_series(1, 20)",
    ]);
    site.start();
    // What `check` prints is what is needed.
    let check = String::from_utf8_lossy(&site.run(&["check"]).stdout).into_owned();
    let begin = check.find("CREATE OR REPLACE").expect("the trigger is printed");
    let end = begin + check[begin..].find("EXECUTE FUNCTION sendimage_changed();").unwrap() + 37;
    server.execute(&[check[begin..end].trim()]);

    wait_for(Duration::from_secs(5), || site.log().contains("listening for changed rows")).expect("it listens");
    let is = |id: u32, extension: &str| ask(&site, &id.to_string(), "width-40").1.ends_with(extension);
    let update = |server: &Server, id: u32, file: &str| {
        server.execute(&[&format!("UPDATE wagtailimages_image SET file = '{file}' WHERE id = {id}")]);
        let began = Instant::now();
        let extension = &file[file.len() - 4..];
        wait_for(Duration::from_secs(5), || is(id, extension)).unwrap_or_else(|()| panic!("{id}: {}", site.log()));
        began.elapsed()
    };
    assert!(is(1, ".jpg") && is(2, ".jpg"));
    let seen = update(&server, 1, "ünï c.png");
    assert!(seen < Duration::from_secs(1), "{seen:?}");
    // New and deleted rows are told of as well.
    assert_eq!(statuses(&site, &[21]), [404]);
    server.execute(&["INSERT INTO wagtailimages_image (file, file_hash) VALUES ('a.jpg', '')"]);
    wait_for(Duration::from_secs(1), || statuses(&site, &[21]) == [200]).expect("a new row");
    server.execute(&["DELETE FROM wagtailimages_image WHERE id = 21"]);
    wait_for(Duration::from_secs(1), || statuses(&site, &[21]) == [404]).expect("a row that is gone");

    // What is no id means all: told by hand, without the trigger.
    server.execute(&["ALTER TABLE wagtailimages_image DISABLE TRIGGER ALL"]);
    server.execute(&["UPDATE wagtailimages_image SET file = 'ünï c.png' WHERE id = 2"]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(is(2, ".jpg"), "nobody was told");
    server.execute(&["NOTIFY images"]);
    wait_for(Duration::from_secs(1), || is(2, ".png")).expect("everything is asked for anew");
    server.execute(&["ALTER TABLE wagtailimages_image ENABLE TRIGGER ALL"]);

    // Changed while nobody listens: the sessions are ended, or the server is away, and it is seen all the same.
    for round in [3, 4] {
        assert!(is(round, ".jpg"));
        let heard = || site.log().matches("listening for changed rows").count();
        let before = heard();
        if round == 3 {
            server.execute(&["ALTER TABLE wagtailimages_image DISABLE TRIGGER ALL"]);
            server.end_sessions();
        } else {
            server.stop();
            server.start();
        }
        server.execute(&[&format!("UPDATE wagtailimages_image SET file = 'ünï c.png' WHERE id = {round}")]);
        let began = Instant::now();
        wait_for(Duration::from_secs(10), || heard() > before).expect("it listens again");
        wait_for(Duration::from_secs(2), || is(round, ".png")).unwrap_or_else(|()| panic!("{}", site.log()));
        eprintln!("listening again, and the change seen, after {:?}", began.elapsed());
    }

    // A storm of changes while everybody asks: the last word is what is served.
    server.execute(&["ALTER TABLE wagtailimages_image ENABLE TRIGGER ALL"]);
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..60).for_each(|_| _ = is(5, ".jpg")))).collect();
        for round in 0..20 {
            let file = if round % 2 == 0 { "ünï c.png" } else { "a.jpg" };
            server.execute(&[&format!("UPDATE wagtailimages_image SET file = '{file}' WHERE id = 5")]);
        }
        asking.into_iter().for_each(|thread| thread.join().unwrap());
    });
    wait_for(Duration::from_secs(1), || is(5, ".jpg")).expect("the last word");
    update(&server, 5, "ünï c.png");
}
