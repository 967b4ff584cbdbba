//! A render worker for commands that need no service: probe, plan and render as the service does it.

use std::{fs::File, sync::Arc, time::Instant};

use crate::{
    app,
    config::Config,
    metrics::Metrics,
    model::{FocalPoint, SourceFacts},
    render::{
        Inspection,
        limits::Limits,
        look::Findings,
        plan::{Defaults, Plan, PlanError},
    },
    renditions::EnsureError,
    source::SourceError,
    spec::FilterSpec,
    workers::{Files, Lane, Marks, Pool, PoolConfig, RenderReport},
};

/// A pool of one, for commands.
pub(super) struct OneWorker {
    pool: Arc<Pool>,
    marks: Marks,
    limits: Limits,
    defaults: Defaults,
}

impl OneWorker {
    pub async fn start(config: &Config) -> Result<Self, anyhow::Error> {
        let marks = Marks::load(&config.watermarks)?;
        let pool_config = PoolConfig { workers: 1, ..app::pool_config(&config.render) };
        let pool = Pool::start(pool_config, Arc::new(Metrics::new())).await?;
        let (limits, defaults) = (app::limits(&config.render), app::defaults(&config.render, &marks));
        Ok(Self { pool, marks, limits, defaults })
    }

    /// Probe, plan, render: as the service does it.
    pub async fn render(
        &self,
        source: &File,
        spec: &FilterSpec,
        focal_point: Option<FocalPoint>,
        output: &File,
        deadline: Instant,
    ) -> Result<(Plan, RenderReport), anyhow::Error> {
        let bytes = source.metadata()?.len();
        let facts = self.probe(source, deadline).await?;
        self.limits.check_source(&facts)?;
        let plan = self.plan_around(source, &facts, spec, focal_point, deadline).await?;
        let files = Files { source, output, mark: self.marks.of(&plan) };
        let report = self.pool.render(files, &plan, bytes, Lane::of(&plan), deadline).await?;
        Ok((plan, report))
    }

    /// What a file's header says.
    pub async fn probe(&self, source: &File, deadline: Instant) -> Result<SourceFacts, EnsureError> {
        let bytes = source.metadata().map_err(|error| SourceError::Unavailable(error.to_string()))?.len();
        self.limits.check_bytes(bytes)?;
        Ok(self.pool.probe(source, deadline).await?)
    }

    /// What the rest of it says, decoded to its end.
    pub async fn inspect(
        &self,
        source: &File,
        facts: &SourceFacts,
        deadline: Instant,
    ) -> Result<Inspection, EnsureError> {
        Ok(self.pool.inspect(source, facts, deadline).await?)
    }

    /// How a rendition would be made.
    pub async fn plan(
        &self,
        source: &File,
        facts: &SourceFacts,
        spec: &FilterSpec,
        deadline: Instant,
    ) -> Result<Plan, EnsureError> {
        self.plan_around(source, facts, spec, None, deadline).await
    }

    async fn plan_around(
        &self,
        source: &File,
        facts: &SourceFacts,
        spec: &FilterSpec,
        focal_point: Option<FocalPoint>,
        deadline: Instant,
    ) -> Result<Plan, EnsureError> {
        let mut findings = Findings::default();
        let plan = loop {
            match Plan::seen(facts, &findings, spec, focal_point, &self.defaults) {
                Err(PlanError::Unseen(look)) => {
                    findings.note(look, self.pool.look(source, facts, look, deadline).await?);
                }
                other => break other?,
            }
        };
        self.limits.check_output(&plan)?;
        Ok(plan)
    }

    /// The config's bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Ends the worker.
    pub async fn shut_down(&self) {
        self.pool.shutdown().await;
    }
}
