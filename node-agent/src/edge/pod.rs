//! A published pod: its rendered trees and the state of its limits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use http::HeaderMap;
use podmeta_metadata::compile::PodView;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::evaluate::RequestPod;
use podmeta_metadata::options::Limits;
use podmeta_metadata::signature::SignedDocument;
use podmeta_metadata::tree::Tree;
use podmeta_metadata::workload::PodRef;
use podmeta_service::log_throttle::LogThrottle;
use tokio::sync::OnceCell;

use crate::edge::access_log::AccessLog;
use crate::edge::fair_share::ThreadShare;
use crate::edge::limit::{ConnectionLimiter, RateLimiter};
use crate::edge::owner::OwnerLookups;

/// A published pod.
#[derive(Debug)]
pub struct EdgePod {
    view: PodView,
    trees: BTreeMap<Dialect, DialectTree>,
    pub(super) rate_limiter: Arc<RateLimiter>,
    pub(super) connections: ConnectionLimiter,
    /// Share of the worker thread.
    pub(super) share: Arc<ThreadShare>,
    /// Lookups of owners of clients' sockets.
    pub(super) owner_lookups: Arc<OwnerLookups>,
    /// Limits the log lines of rejections and failures.
    pub(super) rejection_log: Arc<Mutex<LogThrottle>>,
    pub(super) access_log: Arc<AccessLog>,
    /// The Unix time of the last request that was served without a session token. 0 if there was none.
    pub(super) last_tokenless: Arc<AtomicI64>,
}

/// The tree of a pod in one dialect, with cached headers and signatures.
#[derive(Debug)]
pub(super) struct DialectTree {
    pub(super) tree: Tree,
    /// The headers of the tree's items.
    pub(super) headers: HeaderMap,
    /// The signed identity document. It is signed on the first request for it.
    pub(super) signed: OnceCell<SignedDocument>,
}

impl EdgePod {
    fn new(view: PodView) -> Self {
        let tree = |dialect: Dialect| match &view {
            PodView::Served(workload, link) => Some(DialectTree {
                tree: dialect.protocol().render(workload, link)?,
                headers: dialect.protocol().item_headers(Some(workload.instance.launched)),
                signed: OnceCell::new(),
            }),
            PodView::Denied(_) => None,
        };
        let trees = Dialect::ALL.into_iter().filter_map(|dialect| Some((dialect, tree(dialect)?))).collect();
        Self {
            trees,
            rate_limiter: Arc::default(),
            connections: ConnectionLimiter::default(),
            share: Arc::default(),
            owner_lookups: Arc::default(),
            rejection_log: Arc::default(),
            access_log: Arc::default(),
            last_tokenless: Arc::default(),
            view,
        }
    }

    /// Returns the pod that replaces `current`: `current` itself if its view is the same. Otherwise the new pod shares
    /// the request rate and connection counts of `current`.
    pub(super) fn replacing(current: Option<&Arc<Self>>, view: PodView) -> Arc<Self> {
        match current {
            Some(current) if current.view == view => Arc::clone(current),
            Some(current) => Arc::new(current.with_view(view)),
            None => Arc::new(Self::new(view)),
        }
    }

    fn with_view(&self, view: PodView) -> Self {
        Self {
            rate_limiter: Arc::clone(&self.rate_limiter),
            connections: self.connections.clone(),
            share: Arc::clone(&self.share),
            owner_lookups: Arc::clone(&self.owner_lookups),
            rejection_log: Arc::clone(&self.rejection_log),
            access_log: Arc::clone(&self.access_log),
            last_tokenless: Arc::clone(&self.last_tokenless),
            ..Self::new(view)
        }
    }

    /// Returns the data that the agent serves for the pod.
    #[must_use]
    pub fn view(&self) -> &PodView {
        &self.view
    }

    /// Returns the pod's namespace, name and UID.
    #[must_use]
    pub fn reference(&self) -> &PodRef {
        match &self.view {
            PodView::Served(workload, _) => &workload.pod,
            PodView::Denied(denied) => &denied.pod,
        }
    }

    /// Returns the pod's limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        match &self.view {
            PodView::Served(workload, _) => workload.limits,
            PodView::Denied(_) => Limits::default(),
        }
    }

    /// Returns true if the profile restricts the users of the pod's clients.
    pub(super) fn restricts_users(&self) -> bool {
        matches!(&self.view, PodView::Served(workload, _) if !workload.users.is_unrestricted())
    }

    /// Returns the Unix time of the last request that was served without a session token.
    #[must_use]
    pub fn last_tokenless(&self) -> Option<i64> {
        Some(self.last_tokenless.load(Ordering::Relaxed)).filter(|second| *second != 0)
    }

    /// Returns the state of the pod for the evaluation of a request.
    pub(super) fn state(&self, dialect: Dialect) -> RequestPod<'_> {
        match &self.view {
            PodView::Served(workload, _) => {
                RequestPod::Served { workload, tree: self.tree(dialect).map(|tree| &tree.tree) }
            }
            PodView::Denied(denied) => RequestPod::Denied(&denied.reason),
        }
    }

    /// Returns the tree of a dialect, or `None` if the pod does not have the dialect.
    pub(super) fn tree(&self, dialect: Dialect) -> Option<&DialectTree> {
        self.trees.get(&dialect)
    }
}
