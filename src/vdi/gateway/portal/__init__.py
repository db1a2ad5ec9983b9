"""The portal: what people see. Server-rendered pages, live by server-sent events, plain forms underneath."""
