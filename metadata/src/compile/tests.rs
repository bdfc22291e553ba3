//! What compiling gives for facts, profiles and policies.
