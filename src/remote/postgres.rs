//! Sessions that hear what a Postgres server is told (`LISTEN`, `NOTIFY`).

use std::{future::Future, time::Duration};

use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};

/// Opens a session that listens to a channel, within this time.
///
/// # Errors
/// The server's own; [`sqlx::Error::PoolTimedOut`] for one that is silent.
pub async fn listener(options: PgConnectOptions, channel: &str, timeout: Duration) -> Result<PgListener, sqlx::Error> {
    in_time(timeout, async {
        // A pool for each attempt: the last one may wait for its session until the network gives that up.
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(timeout).max_lifetime(None);
        let pool = pool.idle_timeout(None).connect_lazy_with(options);
        let mut session = PgListener::connect_with(&pool).await?;
        session.eager_reconnect(false);
        session.listen(channel).await?;
        Ok(session)
    })
    .await
}

/// What is told next; `None` when nothing was for as long as `silence` and the server is there: within `timeout` it has answered.
///
/// # Errors
/// The session's own; [`sqlx::Error::PoolClosed`] when it has ended.
pub async fn heard(
    session: &mut PgListener,
    silence: Duration,
    timeout: Duration,
) -> Result<Option<PgNotification>, sqlx::Error> {
    match tokio::time::timeout(silence, session.try_recv()).await {
        Ok(Ok(Some(notification))) => Ok(Some(notification)),
        // The connection broke, and something may have been missed.
        Ok(Ok(None)) => Err(sqlx::Error::PoolClosed),
        Ok(Err(error)) => Err(error),
        // Does nobody tell anything, or is nobody there? A network forgets without a word.
        Err(_) => in_time(timeout, sqlx::query("SELECT 1").execute(session)).await.map(|_| None),
    }
}

async fn in_time<T>(timeout: Duration, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::postgres::PgSslMode;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// A server that lets everybody in and then says nothing more, as one behind a network that has forgotten us.
    #[tokio::test]
    async fn a_server_that_falls_silent_is_not_waited_for() {
        const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let silence = tokio::spawn(async move {
            let (mut client, _) = server.accept().await.unwrap();
            let length = client.read_u32().await.unwrap();
            client.read_exact(&mut vec![0; length as usize - 4]).await.unwrap();
            client.write_all(WELCOME).await.unwrap();
            let mut asked = Vec::new();
            client.read_buf(&mut asked).await.unwrap();
            let _open = (&client, asked.len());
            std::future::pending::<()>().await;
        });
        let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port).username("x");
        let session = listener(options.ssl_mode(PgSslMode::Disable), "news", Duration::from_millis(300));
        let session = tokio::time::timeout(Duration::from_secs(10), session).await.expect("an end");
        assert!(matches!(session, Err(sqlx::Error::PoolTimedOut)), "{session:?}");
        assert!(!silence.is_finished(), "it was asked to listen, and did not answer");
        silence.abort();
    }
}
