//! TLS of the agents' API: [`material`] creates and renews the certificate authority and the serving certificate,
//! [`serving_certificate`] loads, publishes and replaces the certificate that is served.

mod certificate;
pub mod material;
pub mod serving_certificate;
