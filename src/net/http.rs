//! The one HTTP client: no redirects, bounded body and time (token endpoints are hostile input).
