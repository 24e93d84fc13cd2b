import jakarta.mail.Session;
import jakarta.mail.internet.InternetAddress;
import jakarta.mail.internet.MimeMessage;
import java.util.Properties;

/**
 * Sends standard input as it stands with Jakarta Mail.
 *
 * <p>Send PORT open|starttls|tls [MECHANISM USER PASSWORD]
 */
final class Send {
    public static void main(String[] words) throws Exception {
        String protocol = words[1].equals("tls") ? "smtps" : "smtp";
        Properties settings = new Properties();
        settings.put("mail." + protocol + ".from", "app@example.test");
        settings.put("mail." + protocol + ".allow8bitmime", "true");
        if (words[1].equals("starttls")) {
            settings.put("mail.smtp.starttls.enable", "true");
            settings.put("mail.smtp.starttls.required", "true");
        }
        settings.put("mail." + protocol + ".ssl.checkserveridentity", "true");
        if (words.length > 2) {
            settings.put("mail." + protocol + ".auth", "true");
            settings.put("mail." + protocol + ".auth.mechanisms", words[2]);
        }
        Session session = Session.getInstance(settings);
        MimeMessage message = new MimeMessage(session, System.in);
        try (var transport = session.getTransport(protocol)) {
            String user = words.length > 2 ? words[3] : null;
            String password = words.length > 2 ? words[4] : null;
            transport.connect("localhost", Integer.parseInt(words[0]), user, password);
            transport.sendMessage(message, InternetAddress.parse("rcpt@example.org"));
        }
    }
}
