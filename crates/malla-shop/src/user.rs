//! `GET /user`, header `UserID`: who that is; a cookie says whether a VIP.

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;

use crate::serve::{Answer, Answers, json, number, plain, preflight};
use crate::wire::{Place, User, go_json};

const USERS: [(i64, &str, bool); 5] = [
    (1, "Kevin", true),
    (2, "James", true),
    (3, "Steve", true),
    (4, "David", false),
    (5, "John", false),
];

#[derive(Debug)]
pub(crate) struct Users {
    pub(crate) place: Place,
}

impl Users {
    fn find(&self, headers: &HeaderMap) -> User {
        let user_id = number(headers, "userid").unwrap_or(-1);
        let known = USERS.into_iter().find(|(id, ..)| *id == user_id);
        let (name, vip) = known.map_or(("", false), |(_, name, vip)| (name, vip));
        User {
            user_id,
            vip,
            name: name.to_owned(),
            info: vec![self.place.info("user-v1")],
        }
    }
}

impl Answers for Users {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        const ALLOWED: &str = "UserID";
        if request.uri().path() != "/user" {
            return plain(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        if request.method() == Method::OPTIONS {
            return preflight(request.headers(), ALLOWED);
        }
        let user = self.find(request.headers());
        let mut answer = json(request.headers(), ALLOWED, go_json(&user));
        let cookie = if user.vip { "vip=true" } else { "vip=false" };
        answer
            .headers_mut()
            .insert(header::SET_COOKIE, HeaderValue::from_static(cookie));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_have_no_name() {
        let users = Users {
            place: Place {
                pod: "p".into(),
                region: "r".into(),
            },
        };
        let check = |id: &str, want: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("UserID", id.parse().unwrap());
            let text = go_json(&users.find(&headers));
            assert!(text.starts_with(want), "{text}");
        };
        check(
            "1",
            r#"{"UserID":1,"Vip":true,"Name":"Kevin","Info":[{"Service":"user-v1","Pod":"p","Region":"r"}]}"#,
        );
        check("5", r#"{"UserID":5,"Vip":false,"Name":"John""#);
        check("77", r#"{"UserID":77,"Vip":false,"Name":"""#);
        check("kevin", r#"{"UserID":-1,"Vip":false,"Name":"""#);
    }
}
