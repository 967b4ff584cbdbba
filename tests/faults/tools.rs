//! How long, with which numbers, and with which tools.

/// Whether the long form was asked for.
pub fn is_long() -> bool {
    std::env::var_os("SENDIMAGE_LONG").is_some_and(|value| !value.is_empty() && value != "0")
}

/// How often: in the selection, and in the long form.
pub fn scale(fast: usize, long: usize) -> usize {
    if is_long() { long } else { fast }
}

/// What random choices begin with.
pub fn seed() -> u64 {
    std::env::var("SENDIMAGE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_121)
}

/// Random choices, the same on every machine: a stream of their own for each `purpose`.
pub fn random(purpose: &str) -> fastrand::Rng {
    let mixed = purpose.bytes().fold(seed(), |state, byte| state.wrapping_mul(0x100_0000_01B3) ^ u64::from(byte));
    fastrand::Rng::with_seed(mixed)
}

/// Whether this user may mount file systems, make loop devices and trace any process.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An SQLite file with the table `images (id, file)`.
pub fn database(path: &std::path::Path, rows: &[(usize, String)]) {
    use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let mut database = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("CREATE TABLE images (id INTEGER NOT NULL PRIMARY KEY, file VARCHAR(400))")
            .execute(&mut database)
            .await
            .unwrap();
        let mut all = database.begin().await.unwrap();
        for (id, file) in rows {
            let insert = sqlx::query("INSERT INTO images (id, file) VALUES (?, ?)");
            insert.bind(*id as i64).bind(file).execute(&mut *all).await.unwrap();
        }
        all.commit().await.unwrap();
        database.close().await.unwrap();
    });
}

/// Does something while nobody may read this SQLite file.
pub fn locked(path: &std::path::Path, work: impl FnOnce()) {
    use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut database = runtime.block_on(async {
        let mut database = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap();
        sqlx::query("BEGIN EXCLUSIVE").execute(&mut database).await.unwrap();
        database
    });
    work();
    runtime.block_on(async {
        sqlx::query("ROLLBACK").execute(&mut database).await.unwrap();
        database.close().await.unwrap();
    });
}
