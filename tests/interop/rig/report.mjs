// Reads a delivery status notification with mailparser; prints what it finds as JSON, in report.py's form.
import { simpleParser } from 'mailparser';

const message = await simpleParser(process.stdin, { keepDeliveryStatus: true });
const type = message.headers.get('content-type');
if (type.value !== 'multipart/report' || type.params['report-type'] !== 'delivery-status') throw new Error(JSON.stringify(type));
const [status, returned] = message.attachments;
const unfolded = status.content.toString('utf8').replace(/\r\n/g, '\n').replace(/\n[ \t]+/g, ' ');
const fields = unfolded.trim().split(/\n\n+/).map((block) => Object.fromEntries(block.split('\n').map((line) => {
  const colon = line.indexOf(':');
  return [line.slice(0, colon), line.slice(colon + 1).trim()];
})));
console.log(JSON.stringify({
  from: message.from.value[0].address,
  to: message.to.value[0].address,
  auto_submitted: message.headers.get('auto-submitted'),
  text: message.text,
  kinds: ['text/plain', status.contentType, returned.contentType],
  fields,
  original: returned.content.toString('utf8').replace(/\r\n/g, '\n'),
}));
