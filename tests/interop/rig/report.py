"""Reads a delivery status notification with Python's email package; prints what it finds as JSON."""
import json
import sys
from email import message_from_binary_file, policy

message = message_from_binary_file(sys.stdin.buffer, policy=policy.default)
assert message.get_content_type() == "multipart/report", message.get_content_type()
assert message.get_param("report-type") == "delivery-status"
defects = [str(d) for part in message.walk() for d in part.defects]
assert not defects, defects
text, status, returned = message.iter_parts()
assert text.get_content_type() == "text/plain"
blocks = [dict(block.items()) for block in status.get_payload()]
if returned.get_content_type() in ("message/rfc822", "message/global"):
    original = returned.get_payload()[0].as_bytes(policy=policy.SMTP).decode()
else:
    original = returned.get_content()
    if isinstance(original, bytes):
        original = original.decode()
json.dump({
    "from": message["From"].addresses[0].addr_spec,
    "to": message["To"].addresses[0].addr_spec,
    "auto_submitted": message["Auto-Submitted"],
    "text": text.get_content(),
    "kinds": [part.get_content_type() for part in (text, status, returned)],
    "fields": [b for b in blocks if b],
    "original": original.replace("\r\n", "\n"),
}, sys.stdout)
