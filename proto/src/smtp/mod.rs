//! SMTP and ESMTP, server side.
