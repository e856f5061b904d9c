//! Four raw tracepoint programs for the patched guest kernel.
