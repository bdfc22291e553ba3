//! One pod as the edge serves it: its rendered trees, and what it has used of its limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use http::HeaderValue;
use podmeta_metadata::compile::Denied;
use podmeta_metadata::dialect::{Dialect, ec2, ecs};
use podmeta_metadata::options::Limits;
use podmeta_metadata::signature::SignedDocument;
use podmeta_metadata::tree::Tree;
use podmeta_metadata::workload::{Link, PodRef, Workload};
use tokio::sync::OnceCell;

use crate::edge::limit::{Bucket, Connections};

/// What a pod gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// Its trees.
    Served(Box<Workload>, Link),
    /// 403 on every path.
    Denied(Denied),
}

/// A published pod.
#[derive(Debug)]
pub struct Pod {
    view: View,
    /// When its items became what they are, as EC2's replies say.
    pub(super) launched: Option<HeaderValue>,
    ec2: Side,
    ecs: Side,
    pub(super) bucket: Arc<Bucket>,
    pub(super) connections: Connections,
    /// The second in which it asked last without a session token and was answered; 0 if it never did.
    pub(super) tokenless: Arc<AtomicI64>,
}

/// What is made of a pod in one dialect: the tree at once, the signed document when it is first asked for.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) tree: Option<Tree>,
    pub(super) signed: OnceCell<SignedDocument>,
}

impl Pod {
    pub(super) fn new(view: View) -> Self {
        let (launched, ec2, ecs) = match &view {
            View::Served(workload, link) => (
                ec2::last_modified(workload.instance.launched),
                ec2::tree::render(workload, link),
                ecs::tree::render(workload, link),
            ),
            View::Denied(_) => (None, None, None),
        };
        let side = |tree| Side { tree, signed: OnceCell::new() };
        let bucket = Arc::new(Bucket::default());
        let connections = Connections::default();
        Self { launched, ec2: side(ec2), ecs: side(ecs), bucket, connections, tokenless: Arc::default(), view }
    }

    /// The same pod after an edit.
    pub(super) fn with(&self, view: View) -> Self {
        Self {
            bucket: Arc::clone(&self.bucket),
            connections: self.connections.clone(),
            tokenless: Arc::clone(&self.tokenless),
            ..Self::new(view)
        }
    }

    /// What the pod gets.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Which pod it is.
    #[must_use]
    pub fn reference(&self) -> &PodRef {
        match &self.view {
            View::Served(workload, _) => &workload.pod,
            View::Denied(denied) => &denied.pod,
        }
    }

    /// How much it may ask.
    #[must_use]
    pub fn limits(&self) -> Limits {
        match &self.view {
            View::Served(workload, _) => workload.limits,
            View::Denied(_) => Limits::default(),
        }
    }

    /// The second in which the pod asked last without a session token and was answered, if it ever did.
    #[must_use]
    pub fn tokenless(&self) -> Option<i64> {
        Some(self.tokenless.load(Ordering::Relaxed)).filter(|second| *second != 0)
    }

    pub(super) fn side(&self, dialect: Dialect) -> &Side {
        match dialect {
            Dialect::Ec2 => &self.ec2,
            Dialect::Ecs => &self.ecs,
        }
    }
}
