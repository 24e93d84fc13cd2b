#!/usr/bin/env python3
"""Sends the message on standard input by Python's smtplib.

usage: smtplib_send.py PORT none|starttls|tls CA.pem [USER PASSWORD [PLAIN|LOGIN]]
"""
import smtplib, ssl, sys

port, tls, ca = int(sys.argv[1]), sys.argv[2], sys.argv[3]
context = ssl.create_default_context(cafile=ca)
if tls == "tls":
    smtp = smtplib.SMTP_SSL("localhost", port, timeout=60, context=context)
else:
    smtp = smtplib.SMTP("localhost", port, timeout=60)
if tls == "starttls":
    smtp.starttls(context=context)
if len(sys.argv) > 4:
    smtp.ehlo()
    if len(sys.argv) > 6:
        smtp.esmtp_features["auth"] = sys.argv[6]  # smtplib takes the best it sees
    smtp.login(sys.argv[4], sys.argv[5])
message = sys.stdin.buffer.read()
options = ["BODY=8BITMIME"] if any(octet > 127 for octet in message) else []
refused = smtp.sendmail("app@example.test", ["rcpt@example.org"], message, mail_options=options)
smtp.quit()
sys.exit(1 if refused else 0)
