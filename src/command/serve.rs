//! `sendimage serve`

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{CommandResult, ConfigArgument, origin, runtime, start_log};
use crate::{
    app::App,
    config::Config,
    http::{
        answer, answer_ops,
        server::{Bounds, Listener},
    },
};

/// Connections of the operations listener.
const OPS_CONNECTIONS: usize = 64;

/// Runs the service until SIGTERM or SIGINT; requests in flight are answered first.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let loaded = arguments.config.load()?;
    start_log(&loaded.config.log);
    tracing::info!(config = origin(loaded.file.as_deref()), version = env!("CARGO_PKG_VERSION"), "starting");
    runtime()?.block_on(serve(&loaded.config, |_| {}))
}

/// Serves until a signal says to stop. `announce` is told the public listener's address once it is bound.
pub(super) async fn serve(config: &Config, announce: impl FnOnce(&str)) -> CommandResult {
    // Handlers first: a signal during start must not end in the default action.
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;

    let app = App::build(config).await?;
    let listener = Listener::bind(&config.server.listen, config.server.listen_mode).await?;
    let ops = Listener::bind(&config.server.ops_listen, config.server.listen_mode).await?;
    announce(&listener.address());
    let sandbox = app.sandbox();
    tracing::info!(listen = listener.address(), ops = ops.address(), %sandbox, "ready");
    tokio::spawn(sweep(app.clone()));

    let (stop, stopping) = watch::channel(false);
    let drain = Duration::from_secs_f64(config.server.drain_seconds);
    let bounds = Bounds {
        header_timeout: Duration::from_secs_f64(config.server.header_timeout_seconds),
        max_connections: config.server.max_connections,
        drain,
    };
    let images = {
        let app = app.clone();
        tokio::spawn(listener.serve(bounds, stopping.clone(), move |request| answer(app.clone(), request)))
    };
    let (stop_ops, stopping_ops) = watch::channel(false);
    let ops = {
        let app = app.clone();
        let bounds = Bounds { max_connections: OPS_CONNECTIONS, drain: Duration::from_secs(1), ..bounds };
        tokio::spawn(ops.serve(bounds, stopping_ops, move |request| answer_ops(app.clone(), request)))
    };

    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => tracing::warn!("this version reads its config at start only: restart it to apply changes"),
        }
    }
    tracing::info!(drain_seconds = config.server.drain_seconds, "stopping: requests in flight are answered first");
    app.begin_drain();
    stop.send_replace(true);
    tokio::select! {
        _ = images => {}
        // Asked twice: at once.
        _ = terminate.recv() => tracing::warn!("stopping at once"),
        _ = interrupt.recv() => tracing::warn!("stopping at once"),
    }
    // Health answers to the end, so that a balancer sees the draining.
    stop_ops.send_replace(true);
    let _ = ops.await;
    app.shut_down().await;
    tracing::info!("stopped");
    Ok(())
}

async fn sweep(app: Arc<App>) {
    match app.store.sweep().await {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "removed what crashed processes had left in the store"),
        Err(error) => tracing::warn!(%error, "the store could not be swept"),
    }
}
