<?php
// Composes a message by PHPMailer and sends it; what goes over the wire is written to OUT as well.
//   php phpmailer_send.php PORT none|starttls|tls CA.pem TEXT ATTACHMENT|- OUT [USER PASSWORD [PLAIN|LOGIN]]
require '/usr/share/php/libphp-phpmailer/src/Exception.php';
require '/usr/share/php/libphp-phpmailer/src/PHPMailer.php';
require '/usr/share/php/libphp-phpmailer/src/SMTP.php';

[, $port, $tls, $ca, $text, $attachment, $out] = $argv;
$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->isSMTP();
$mail->Host = 'localhost';
$mail->Port = (int) $port;
$mail->SMTPAutoTLS = false;
$mail->SMTPSecure = ['none' => '', 'starttls' => 'tls', 'tls' => 'ssl'][$tls];
$mail->SMTPOptions = ['ssl' => ['cafile' => $ca]];
if (isset($argv[8])) {
    $mail->SMTPAuth = true;
    [$mail->Username, $mail->Password] = [$argv[7], $argv[8]];
    $mail->AuthType = $argv[9] ?? '';
}
$mail->CharSet = 'utf-8';
$mail->Encoding = '8bit';
$mail->Sender = 'app@example.test';
$mail->setFrom('app@example.test', 'App');
$mail->addAddress('rcpt@example.org');
$mail->Subject = 'PHPMailer';
$mail->AllowEmpty = true;
$mail->Body = file_get_contents($text);
if ($attachment !== '-') {
    $mail->addAttachment($attachment, 'data.bin');
}
$mail->preSend();
file_put_contents($out, $mail->getSentMIMEMessage());
$mail->postSend();
