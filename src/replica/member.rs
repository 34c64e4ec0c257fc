//! A member.
