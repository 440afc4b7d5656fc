//! Requests: from a decoded head to a finished answer and its record.

pub mod body;
