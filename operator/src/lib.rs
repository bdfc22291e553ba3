//! The operator: from what the API server holds to what each node's agent serves.
//!
//! [`watch`] tells [`world`] what there is, and [`profile`] what of a profile holds; [`index`] says what follows for each
//! pod, [`feed`] what each agent is told of it, [`status`] what a profile says of itself: these know no API server and no
//! time. [`api`] is what agents ask, [`reconcile`] keeps all of it going, and [`operator`] puts it together.

pub mod api;
pub mod args;
pub mod broker;
pub mod certificates;
pub mod connections;
pub mod feed;
pub mod index;
pub mod lease;
pub mod metrics;
pub mod object;
pub mod operator;
pub mod profile;
pub mod reconcile;
pub mod report;
pub mod reviewer;
pub mod serving;
pub mod sources;
pub mod status;
pub mod tls;
pub mod turns;
pub mod watch;
pub mod world;
