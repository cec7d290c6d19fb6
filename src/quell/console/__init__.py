"""The console: what people see. Server-rendered pages over the same services that REST answers from. docs/console.md."""
